"""The claims ledger: what a paper says, what the executed chapter measured, a verdict by a predicate that can fail."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sepriors.files import atomic_write

Verdict = Literal["holds", "fails", "not judged"]
NO_REASON = "no reason has been written"  # of a claim that fails


class Interval(NamedTuple):
    """A measured value with its 95 % interval, from n files; low and high are NaN where there is none.

    `missing` files have no value, and `why` says of what there was only one. A format holds for all three numbers.

    >>> print(Interval(1.5, 1.0, 2.0, 9), Interval(1.5, 1.0, 2.0, 9, missing=3), Interval(1.5, np.nan, np.nan, 1))
    1.5 [1, 2] 1.5 [1, 2] (9/12) 1.5 (no interval)
    >>> f"{Interval(1.5, 1.0, 2.0, 9):+.1f}"
    '+1.5 [+1.0, +2.0]'
    """

    value: float
    low: float
    high: float
    n: int
    label: str = ""
    missing: int = 0
    why: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return not (np.isnan(self.low) or np.isnan(self.high))

    @property
    def coverage(self) -> str:
        """' (n/of)' where files are missing, else nothing."""
        return f" ({self.n}/{self.n + self.missing})" if self.missing else ""

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        interval = f"[{self.low:{spec}}, {self.high:{spec}}]" if self.has_interval else "(no interval)"
        return f"{self.value:{spec}} {interval}{self.coverage}"

    def __str__(self) -> str:
        return format(self)


ENDS = (0.025, 0.975)  # of an interval, as quantiles


class ClaimError(ValueError):
    """A claim that the ledger does not know, or evidence that cannot carry a verdict."""


def bootstrap(
    values: Sequence[float] | np.ndarray,
    label: str = "",
    *,
    speakers: Sequence[str] | None = None,
    recordings: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean with its 95 % percentile bootstrap interval (Efron & Tibshirani, 1993, ch. 13).

    Files are resampled; with `speakers` or `recordings`, one name a file, whole clusters are (Davison & Hinkley, 1997,
    § 3.8), since six excerpts of one recording are not six recordings. With both, speakers and recordings are drawn
    independently, and a file counts as often as its speaker times as often as its recording: the pigeonhole bootstrap
    (Owen, 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)), whose variance is right where speakers
    and recordings matter, and up to three times too large for what is each file's own. A draw in which no file counts
    is drawn again. Where each speaker meets one recording only, whoever draws recordings draws speakers, and the
    recordings alone are drawn; so, too, the other way round.

    One file, one speaker or one recording gives no interval: low and high are NaN, and `why` says so. A value that is
    NaN is left out and counted as missing. Raises ClaimError where no finite value is left.

    >>> bootstrap([1.0, 1.0, 1.0])[:4]
    (1.0, 1.0, 1.0, 3)
    >>> bootstrap([1.0, 2.0], recordings=["street", "street"])
    Interval(value=1.5, low=nan, high=nan, n=2, label='', missing=0, why='one recording')
    """
    x = np.asarray(values, dtype=float)
    finite = np.isfinite(x)
    if not finite.any():
        raise ClaimError(f"{label or 'evidence'}: expected at least one finite value, got none")
    x, missing = x[finite], int((~finite).sum())
    named = {name: names for name, names in (("speaker", speakers), ("recording", recordings)) if names is not None}
    places = {name: np.unique(np.asarray(names)[finite], return_inverse=True)[1] for name, names in named.items()}
    if not places or len(x) == 1:
        places = {"file": np.arange(len(x))}
    why = " and ".join(f"one {name}" for name, place in places.items() if not place.any())
    if why:
        return Interval(float(x.mean()), np.nan, np.nan, len(x), label, missing, why)
    low, high = np.quantile(_means(x, _crossed(list(places.values())), resamples, np.random.default_rng(seed)), ENDS)
    return Interval(float(x.mean()), float(low), float(high), len(x), label, missing)


def _crossed(places: list[np.ndarray]) -> list[np.ndarray]:
    """The factors but one whose every cluster lies within a cluster of the other; of two that are alike the first."""
    if len(places) == 1:
        return places
    pairs = len(set(zip(*map(np.ndarray.tolist, places), strict=True)))
    return [place for place in places if pairs > place.max() + 1] or places[:1]


def _means(x: np.ndarray, places: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means (resamples,) of x (n,) under redraws of its clusters; `places` say in which of a factor's each file is."""
    rows, columns = (*places, np.zeros(len(x), dtype=int))[:2]  # with one factor there is one column
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    cells = rows * shape[1] + columns
    sums, files = (np.bincount(cells, w, minlength=shape[0] * shape[1]).reshape(shape) for w in (x, np.ones(len(x))))
    numerator, denominator = np.zeros(resamples), np.zeros(resamples)
    while (empty := denominator == 0).any():
        drawn = [_counts(int(place.max()) + 1, int(empty.sum()), rng) for place in places]
        weights = drawn[1] if len(drawn) > 1 else np.ones((len(drawn[0]), 1))
        numerator[empty], denominator[empty] = (((drawn[0] @ part) * weights).sum(1) for part in (sums, files))
    return np.asarray(numerator / denominator)


def _counts(clusters: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of so many clusters is drawn in as many draws with replacement: (resamples, clusters)."""
    drawn = rng.integers(clusters, size=(resamples, clusters)) + clusters * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(float)


def judge(evidence: Sequence[Interval], *, above: float | None = None, below: float | None = None) -> Verdict:
    """'holds' if every interval lies beyond the bound, 'fails' if one lies wholly on the wrong side, else 'not judged'.

    >>> judge([Interval(2, 1, 3, 9)], above=0), judge([Interval(2, 1, 3, 9)], below=0)
    ('holds', 'fails')
    >>> judge([Interval(2, 1, 3, 9), Interval(0, -1, 1, 9)], above=0)
    'not judged'

    What has no interval passes neither test. Raises ClaimError without evidence, or with other than one bound.
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


def _undecided(evidence: Sequence[Interval]) -> str:
    """Why evidence decides nothing: what has no interval, or how few files an interval stands on."""
    bare = [e for e in evidence if not e.has_interval]
    if bare:
        return "no interval: " + ", ".join(dict.fromkeys(e.why or "a value that is not known" for e in bare))
    return f"an interval holds the bound: undecided on {min(e.n for e in evidence)} files"


@dataclass
class Ledger:
    """The claims of one chapter, as they are judged; shows itself as a table and writes `claims.json`.

    `facts` says on which data the verdicts stand: profile, is_real, corpus, files. Claims are judged on real speech in
    the profile `book` or `paper` only, or on records of it; elsewhere the verdict is 'not judged', with that reason.
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

    def _unfit(self, record: str) -> str:
        if self.facts["profile"] == "smoke":
            return "a smoke run, its numbers carry no verdict"
        is_real = self.facts["is_real"] or record
        return "" if is_real else "synthetic speech, claims are judged on real speech only"

    def judge(
        self,
        id: str,
        evidence: Sequence[Interval],
        *,
        above: float | None = None,
        below: float | None = None,
        unit: str = "",
        reason: str = "",
        record: str = "",
    ) -> Verdict:
        """Judge a claim by its predicate on the evidence, and write the record.

        `record` names the records that the evidence is from, where it was not measured by the chapter itself.

        A claim that fails without a `reason` is shown as one of which none has been written: other data may change a
        verdict, and a reader's book is built all the same. Raises ClaimError for a claim of another chapter or of none.
        """
        if self.claims and self.claims.get(id, {}).get("chapter") != self.chapter:
            mine = [c for c, claim in self.claims.items() if claim["chapter"] == self.chapter]
            raise ClaimError(f"unknown claim {id!r} of chapter {self.chapter}; it has {', '.join(mine) or 'none'}")
        verdict = judge(evidence, above=above, below=below)
        if unfit := self._unfit(record):
            verdict, reason = "not judged", unfit
        elif verdict == "not judged":
            reason = f"{_undecided(evidence)}. {reason}".strip()
        elif verdict == "fails":
            reason = reason or NO_REASON
        bound = f"above {above:g}" if above is not None else f"below {below:g}"
        self.verdicts[id] = {
            "id": id,
            "verdict": verdict,
            # JSON has no NaN
            "evidence": [{k: None if v != v else v for k, v in e._asdict().items()} for e in evidence],
            "predicate": f"every interval {bound}{' ' + unit if unit else ''}",
            "unit": unit,
            "reason": reason if verdict != "holds" else "",
            "record": record,
        }
        self._write()
        return verdict

    @property
    def unexplained(self) -> list[str]:
        """The claims that fail without a reason, for whoever may not publish that."""
        return [id for id, v in self.verdicts.items() if v["reason"] == NO_REASON]

    def _write(self) -> None:
        if build := os.environ.get("SEPRIORS_BUILD"):
            record = {**self.facts, "chapter": self.chapter, "verdicts": list(self.verdicts.values())}
            with atomic_write(Path(build) / "records" / self.chapter / "claims.json") as part:
                part.write_text(json.dumps(record, indent=1, default=float), "utf-8")  # NumPy's numbers, too

    def _repr_html_(self) -> str:
        def measured(v: dict[str, Any]) -> str:
            lines = []
            for e in v["evidence"]:
                known = Interval._make(math.nan if e[name] is None else e[name] for name in Interval._fields)
                interval = f"[{known.low:.3g}, {known.high:.3g}]" if known.has_interval else "no interval"
                of = f" of {known.n + known.missing}" if known.missing else ""
                figures = f"{known.value:.3g} {interval}, n = {known.n}{of}".replace("-", "−")
                lines.append(escape(f"{known.label}: {figures}{f', {known.why}' if known.why else ''}"))
            items = "".join(f"<li>{line}</li>" for line in lines)
            if len(lines) > 3:
                return f"<details><summary>{len(lines)} measurements</summary><ul>{items}</ul></details>"
            return f"<ul>{items}</ul>"

        def row(v: dict[str, Any]) -> str:
            claim = self.claims.get(v["id"], {"statement": "", "published": "see claims.toml"})
            of = f"records: {v['record']}" if v["record"] else ""
            why = "".join(f"<br><small>{escape(text)}</small>" for text in (v["reason"], of) if text)
            cells = [v["id"], f"{escape(claim['statement'])} <small>({escape(claim['published'])})</small>"]
            cells += [f"{measured(v)}<small>{escape(v['predicate'])}</small>", f"<strong>{v['verdict']}</strong>{why}"]
            return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

        head = "".join(f"<th>{h}</th>" for h in ("claim", "paper says", "we measured, 95 % interval", "verdict"))
        rows = "".join(row(self.verdicts[id]) for id in sorted(self.verdicts))
        return f'<table class="dataframe claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
