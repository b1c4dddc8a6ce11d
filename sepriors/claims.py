"""The claims ledger: what a paper says, what the executed chapter measured, a verdict by a predicate that can fail."""

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

from .audio import whole

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
    values: Sequence[float] | np.ndarray,
    label: str = "",
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean with its 95 % percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13).

    Files are resampled; with `groups`, one name a file, whole groups are (Davison & Hinkley, 1997, § 3.8), since six
    excerpts of one recording are not six recordings. A single group gives no interval: low and high are NaN. A value
    that is NaN is left out, and n says so. Raises ClaimError where no finite value is left.

    >>> bootstrap([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0, n=3, label='')
    >>> bootstrap([1.0, 2.0], groups=["street", "street"])
    Estimate(value=1.5, low=nan, high=nan, n=2, label='')
    """
    x = np.asarray(values, dtype=float)
    finite = np.isfinite(x)
    if not finite.any():
        raise ClaimError(f"{label or 'evidence'}: expected at least one finite value, got none")
    names = np.arange(len(x)) if groups is None else np.asarray(groups)
    _, place = np.unique(names[finite], return_inverse=True)
    x = x[finite]
    sums, counts = np.bincount(place, x), np.bincount(place)
    if groups is not None and len(sums) == 1:
        return Estimate(float(x.mean()), np.nan, np.nan, len(x), label)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high), len(x), label)


def judge(evidence: Sequence[Estimate], *, above: float | None = None, below: float | None = None) -> Verdict:
    """'holds' if every interval lies beyond the bound, 'fails' if one lies wholly on the wrong side, else 'not judged'.

    >>> judge([Estimate(2, 1, 3, 9)], above=0), judge([Estimate(2, 1, 3, 9)], below=0)
    ('holds', 'fails')
    >>> judge([Estimate(2, 1, 3, 9), Estimate(0, -1, 1, 9)], above=0)
    'not judged'
    """
    if not evidence:
        raise ClaimError("expected at least one estimate to judge by, got none")
    if (above is None) == (below is None):
        raise ClaimError("expected one bound: above=... or below=...")
    sign, bound = (1, above) if above is not None else (-1, below)
    assert bound is not None
    ends = [(sign * (e.low - bound), sign * (e.high - bound)) for e in evidence]
    if all(a > 0 and b > 0 for a, b in ends):  # an end that is NaN passes neither test
        return "holds"
    return "fails" if any(a < 0 and b < 0 for a, b in ends) else "not judged"


def read_claims(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """The claims of a `claims.toml` by id; raises ClaimError for a missing field or an id that stands twice."""
    claims: dict[str, dict[str, str]] = {}
    for claim in tomllib.loads(Path(path).read_text("utf-8")).get("claim", []):
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

    `facts` says on which data the verdicts stand: profile, is_real, corpus, files. Claims are judged on real speech in
    the profile `book` or `paper` only; elsewhere every verdict is 'not judged', with that reason.
    """

    chapter: str
    claims: Mapping[str, Mapping[str, str]]
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, chapter: str, facts: Mapping[str, Any]) -> Ledger:
        """The ledger of a chapter with the claims of `claims.toml` beside the notebook; without it, with no texts."""
        beside = Path("claims.toml")
        return cls(chapter, read_claims(beside) if beside.is_file() else {}, facts)

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
        """Judge a claim by its predicate on the evidence; where it fails there must be a `reason`."""
        if self.claims and self.claims.get(id, {}).get("chapter") != self.chapter:
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
            # JSON has no NaN
            "evidence": [{k: None if v != v else v for k, v in e._asdict().items()} for e in evidence],
            "predicate": f"every interval {bound}{' ' + unit if unit else ''}",
            "unit": unit,
            "reason": reason if verdict != "holds" else "",
        }
        self._write()
        return verdict

    def _write(self) -> None:
        if build := os.environ.get("SEPRIORS_BUILD"):
            record = {**self.facts, "chapter": self.chapter, "verdicts": list(self.verdicts.values())}
            with whole(Path(build) / "records" / self.chapter / "claims.json") as part:
                part.write_text(json.dumps(record, indent=1, default=float), "utf-8")  # NumPy's numbers, too

    def _repr_html_(self) -> str:
        def measured(v: dict[str, Any]) -> str:
            lines = []
            for e in v["evidence"]:
                interval = "no interval" if e["low"] is None else f"[{e['low']:.3g}, {e['high']:.3g}]"
                figures = f"{e['value']:.3g} {interval}, n = {e['n']}".replace("-", "−")
                lines.append(f"{escape(e['label'])}: {figures}")
            items = "".join(f"<li>{line}</li>" for line in lines)
            if len(lines) > 3:
                return f"<details><summary>{len(lines)} measurements</summary><ul>{items}</ul></details>"
            return f"<ul>{items}</ul>"

        def row(v: dict[str, Any]) -> str:
            claim = self.claims.get(v["id"], {"statement": "", "published": "see claims.toml"})
            why = f"<br><small>{escape(v['reason'])}</small>" if v["reason"] else ""
            cells = [v["id"], f"{escape(claim['statement'])} <small>({escape(claim['published'])})</small>"]
            cells += [f"{measured(v)}<small>{escape(v['predicate'])}</small>", f"<strong>{v['verdict']}</strong>{why}"]
            return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

        head = "".join(f"<th>{h}</th>" for h in ("claim", "paper says", "we measured, 95 % interval", "verdict"))
        rows = "".join(row(self.verdicts[id]) for id in sorted(self.verdicts))
        return f'<table class="dataframe claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
