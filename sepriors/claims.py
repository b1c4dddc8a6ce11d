"""The claims ledger: what a paper says, what the executed chapter measured, and a verdict by a predicate that can fail."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Verdict = Literal["holds", "fails", "not judged"]


class Estimate(NamedTuple):
    """A measured value with its 95 % interval, from n files."""

    value: float
    low: float
    high: float
    n: int
    label: str = ""

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class ClaimError(ValueError):
    """A claim that the ledger does not know, or evidence that cannot carry a verdict."""


def bootstrap(
    values: Sequence[float] | np.ndarray, label: str = "", *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean with its 95 % percentile bootstrap interval over files (Efron & Tibshirani, 1993, ch. 13); NaN is left out and n says so.

    Raises ClaimError where no finite value is left.

    >>> bootstrap([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0, n=3, label='')
    """
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        raise ClaimError(f"{label or 'evidence'}: expected at least one finite value, got none")
    means = x[np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high), len(x), label)


def judge(evidence: Sequence[Estimate], *, above: float | None = None, below: float | None = None) -> Verdict:
    """'holds' if every interval lies beyond the bound, 'fails' if one lies wholly on the wrong side, else 'not judged'.

    >>> judge([Estimate(2, 1, 3, 9)], above=0), judge([Estimate(2, 1, 3, 9)], below=0), judge([Estimate(0, -1, 1, 9)], above=0)
    ('holds', 'fails', 'not judged')
    """
    if not evidence:
        raise ClaimError("expected at least one estimate to judge by, got none")
    if (above is None) == (below is None):
        raise ClaimError("expected one bound: above=... or below=...")
    sign, bound = (1, above) if above is not None else (-1, below)
    assert bound is not None
    worst = [min(sign * (e.low - bound), sign * (e.high - bound)) for e in evidence]  # the end nearest to failing
    best = [max(sign * (e.low - bound), sign * (e.high - bound)) for e in evidence]
    if all(w > 0 for w in worst):
        return "holds"
    return "fails" if any(b < 0 for b in best) else "not judged"


def read_claims(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """The claims of a `claims.toml` by id; raises ClaimError for a missing field or an id that stands twice."""
    claims: dict[str, dict[str, str]] = {}
    for claim in tomllib.loads(Path(path).read_text("utf-8"))["claim"]:
        missing = {"id", "source", "statement", "published", "chapter"} - claim.keys()
        if missing:
            raise ClaimError(f"{path}: claim {claim.get('id', '?')!r} lacks {', '.join(sorted(missing))}")
        if claim["id"] in claims:
            raise ClaimError(f"{path}: claim {claim['id']!r} stands twice")
        claims[claim["id"]] = claim
    return claims


@dataclass
class Ledger:
    """The claims of one chapter, as they are judged; shows itself as a table and writes `claims.json`.

    `facts` says on which data the verdicts stand: profile, corpus, origin, files. Claims are judged on real speech in the `book` or
    `paper` profile only; elsewhere every verdict is 'not judged', with that reason.
    """

    chapter: str
    claims: Mapping[str, Mapping[str, str]]
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.verdicts: dict[str, dict[str, Any]] = {}

    @property
    def _unfit(self) -> str:
        if self.facts["profile"] == "smoke":
            return "a smoke run, its numbers carry no verdict"
        return "" if self.facts["is_real"] else "synthetic speech, claims are judged on real speech only"

    def judge(
        self,
        id: str,
        evidence: Sequence[Estimate],
        *,
        above: float | None = None,
        below: float | None = None,
        unit: str = "",
        reason: str = "",
    ) -> Verdict:
        """Judge a claim by its predicate on the evidence; `reason` explains a failure and must be there if the claim does fail."""
        if self.claims.get(id, {}).get("chapter") != self.chapter:
            mine = [c for c, claim in self.claims.items() if claim["chapter"] == self.chapter]
            raise ClaimError(f"unknown claim {id!r} of chapter {self.chapter}; it has {', '.join(mine) or 'none'}")
        verdict = judge(evidence, above=above, below=below)
        if self._unfit:
            verdict, reason = "not judged", self._unfit
        elif verdict == "not judged":
            reason = f"an interval holds the bound: undecided on {min(e.n for e in evidence)} files. {reason}".strip()
        elif verdict == "fails" and not reason:
            raise ClaimError(f"claim {id!r} fails: say why, reason='...'")
        bound = f"above {above:g}" if above is not None else f"below {below:g}"
        self.verdicts[id] = {
            "id": id,
            "verdict": verdict,
            "evidence": [e._asdict() for e in evidence],
            "predicate": f"every interval {bound}{' ' + unit if unit else ''}",
            "unit": unit,
            "reason": reason if verdict != "holds" else "",
        }
        self._write()
        return verdict

    def _write(self) -> None:
        if build := os.environ.get("SEPRIORS_BUILD"):
            path = Path(build) / "records" / self.chapter / "claims.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {**self.facts, "chapter": self.chapter, "verdicts": list(self.verdicts.values())}
            path.write_text(json.dumps(record, indent=1), "utf-8")

    def _repr_html_(self) -> str:
        def row(v: dict[str, Any]) -> str:
            claim = self.claims[v["id"]]
            evidence = "<br>".join(
                f"{escape(e['label'])} {e['value']:+.3g} [{e['low']:+.3g}, {e['high']:+.3g}] n={e['n']}"
                for e in v["evidence"]
            )
            why = f"<br><small>{escape(v['reason'])}</small>" if v["reason"] else ""
            cells = [v["id"], f"{escape(claim['statement'])} <small>({escape(claim['published'])})</small>"]
            cells += [f"{evidence}<br><small>{escape(v['predicate'])}</small>", f"<strong>{v['verdict']}</strong>{why}"]
            return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

        head = "".join(f"<th>{h}</th>" for h in ("claim", "paper says", "we measured, 95 % interval", "verdict"))
        rows = "".join(map(row, self.verdicts.values()))
        return f'<table class="dataframe claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
