"""The leaderboard: every method on every set, from the records that are valid and nothing else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sepriors.lab import plots, records
from sepriors.lab.bench import NOISY, complete, difference, mean_of, paired
from sepriors.lab.claims import Interval
from sepriors.lab.corpora import class_of, recording_of, speaker_of
from sepriors.lab.peers import PEERS
from sepriors.methods import METHODS
from sepriors.weights import cards, load
from tools import ROOT
from tools.pages.text import number, render

CHAPTER = "09-which-prior"
MEASURES = {
    "si_sdr": "SI-SDR (dB)",
    "pesq_wb": "PESQ-wb",
    "estoi": "ESTOI",
    "dnsmos_ovr": "DNSMOS overall",
    "pesq_raw": "PESQ, raw",
    "stoi": "STOI",
    "fwsnrseg": "fwSNRseg (dB)",
    "csig": "CSIG",
    "cbak": "CBAK",
    "covl": "COVL",
    "dnsmos_sig": "DNSMOS signal",
    "dnsmos_bak": "DNSMOS background",
}
SHOWN = 4  # measures that are shown before anybody chooses
FEWEST = 4  # files that an interval or a rank asks for
RANKED = "si_sdr"  # what the ranks go by
FALSE = 0.05  # the share of verdicts between pairs of methods that may be false
FIGURE = "leaderboard.svg"
# Methods that were trained on pairs of noisy and clean speech; of the packages of others, all but one
SUPERVISED = {name for name, entry in METHODS.items() if "supervised:" in entry.about}
SUPERVISED |= PEERS.keys() - {"noisereduce"}
# Cards that a method's own began from: their training counts, their parameters are in its own
BEFORE = {"bsse": ("ssl",), "use-ddp": ("codec",)}


class Bench(NamedTuple):
    """A set as the page shows it: its table of valid records, and what is wrong with the others, by method."""

    made: records.RecordSet
    table: pd.DataFrame
    problems: dict[str, str]

    @property
    def stands_on(self) -> str:
        """How many mixtures, speakers and recordings of noise are behind a row."""
        files = self.table["file"].unique()
        snrs = ", ".join(f"{snr:g}".replace("-", "−") for snr in sorted(self.table["snr_db"].unique()))
        parts = [f"{len(files)} files", f"{len(set(map(speaker_of, files)))} speakers"]
        if class_of(files[0]) != "none":
            parts.append(f"{len(set(map(recording_of, files)))} recordings of noise")
        return ", ".join(parts) + (f", at {snrs} dB" if self.made.snrs and self.made.kind in ("real", "white") else "")


def read_benches(where: Path | None = None) -> dict[str, Bench]:
    """The sets of which there are valid records beside that of the noisy mixture, by name."""
    found = {
        name: Bench(made, *records.valid(name, where)) for name, made in records.sets(where).items() if not made.of
    }
    return {name: bench for name, bench in found.items() if len(bench.table) and methods_in(bench.table)}


def read(tree: Path, name: str) -> dict[str, Any] | None:
    """What the last chapter measured beside the records, or None where it left none, or that of a smoke run."""
    path = tree / "records" / CHAPTER / f"bench-{name}.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record if record and record["profile"] != "smoke" else None


def page(tree: Path, source: Path = ROOT) -> str:
    """The page in MyST Markdown; the figure of quality and cost goes into the tree's `_static`."""
    benches = read_benches(source / "records")
    static = tree / "book" / "_static" / FIGURE
    return render(
        "leaderboard.md.jinja",
        fewest=FEWEST,
        false=FALSE,
        figure=FIGURE,
        front=draw_front(benches["matched"].table, static) if "matched" in benches else [],
        benches=[(bench, html(bench.table), by_kind(bench.table)) for bench in benches.values()],
        published=tomllib.loads((source / "book" / "published.toml").read_text("utf-8"))["row"],
    )


def methods_in(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table["method"].unique() if name != NOISY]


def ranks(table: pd.DataFrame, metric: str = RANKED) -> dict[str, tuple[int, int]]:
    """The least and the largest rank of each method that its paired differences leave open.

    A method stands below those that beat it, and above those that it beats, at a false discovery rate of `FALSE` over
    all pairs (Benjamini & Yekutieli, 2001, since pairs share methods); of a difference, its interval is taken for
    normal.
    """
    names = methods_in(table)
    pairs = [(a, b, difference(table, metric, a, b)) for a, b in combinations(names, 2) if _meet(table, metric, a, b)]
    known = [(a, b, e) for a, b, e in pairs if e.has_interval]
    deviations = np.array([max(e.high - e.low, 1e-12) / 3.92 for *_, e in known])
    p = 2 * stats.norm.sf(np.abs([e.value for *_, e in known]) / deviations) if known else []
    above, below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for (a, b, e), adjusted in zip(known, stats.false_discovery_control(p, method="by") if known else [], strict=True):
        if adjusted < FALSE:
            better, worse = (a, b) if e.value > 0 else (b, a)
            below[better] += 1
            above[worse] += 1
    return {name: (1 + above[name], len(names) - below[name]) for name in names}


def _meet(table: pd.DataFrame, metric: str, a: str, b: str) -> bool:
    """Whether two methods have a file in common."""
    return bool(complete(table, metric, a, b).notna().any())


def front_of(rtf: Mapping[Any, float], gain: Mapping[str, float]) -> list[str]:
    """Those that nobody beats who is as quick, the quickest first.

    >>> front_of({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1.0, "b": 0.5, "c": 2.0})
    ['a', 'c']
    """
    best = [name for name in gain if not any(rtf[n] <= rtf[name] and gain[n] > gain[name] for n in gain)]
    return sorted(best, key=lambda name: rtf[name])


def draw_front(table: pd.DataFrame, path: Path) -> list[str]:
    """Draw gain against cost into an SVG file; returns the methods on the front."""
    rtf = table.groupby("method")["rtf"].mean().to_dict()
    gain = {name: difference(table, RANKED, name).value for name in methods_in(table)}
    front = front_of(rtf, gain)
    with plots.plt.rc_context({**plots.STYLE, "svg.fonttype": "none", "svg.hashsalt": CHAPTER}):
        figure, ax = plots.plt.subplots(figsize=(8, 3.6), layout="constrained")
        for name, value in gain.items():
            supervised = name in SUPERVISED
            colour, alpha = plots.COLOURS[int(supervised)], 1.0 if name in front else 0.4
            ax.plot(rtf[name], value, "s" if supervised else "o", color=colour, alpha=alpha)
            ax.annotate(name, (rtf[name], value), xytext=(4, 3), textcoords="offset points", fontsize=7, alpha=alpha)
        ax.step([rtf[name] for name in front], [gain[name] for name in front], where="post", color="0.6", zorder=0)
        ax.set(xscale="log", xlabel="real-time factor", ylabel="gain in SI-SDR (dB)")
        ax.margins(x=0.1)  # a name stands to the right of its point
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plots.plt.close(figure)
    return front


def html(table: pd.DataFrame) -> str:
    """The table of one set, sortable by a script, ranked without it."""
    shown = {metric: title for metric, title in MEASURES.items() if metric in table}
    ranked = ranks(table) if RANKED in shown else {}
    order = sorted(methods_in(table), key=lambda name: -mean_of(paired(table, next(iter(shown)), name)).value)
    rows = {name: list(_cells(table, name, shown, ranked.get(name))) for name in order}
    departures = {name: entry.departures or "none" for name, entry in METHODS.items()}
    return render(
        "bench.html.jinja",
        measures=shown.values(),
        first=SHOWN,
        rows=rows,
        supervised=SUPERVISED,
        departures=departures,
    )


def by_kind(table: pd.DataFrame) -> str:
    """Gains in SI-SDR by class of noise, by SNR and by the speakers' sex where they are known: what decides."""
    if RANKED not in table or (classes := table["file"].map(class_of)).eq("none").all():
        return ""
    columns = {cls: table[classes == cls] for cls in sorted(classes.unique())}
    columns |= {
        f"{snr:g} dB".replace("-", "−"): table[table["snr_db"] == snr] for snr in sorted(table["snr_db"].unique())
    }
    gains = {
        name: [difference(part, RANKED, name) if name in set(part["method"]) else None for part in columns.values()]
        for name in methods_in(table)
    }
    counts = [part["file"].nunique() for part in columns.values()]
    order = sorted(gains, key=lambda name: -difference(table, RANKED, name).value)
    return render(
        "kinds.html.jinja", columns=list(zip(columns, counts, strict=True)), rows={n: gains[n] for n in order}
    )


def _cells(
    table: pd.DataFrame, name: str, measures: Mapping[str, str], rank: tuple[int, int] | None
) -> Iterator[tuple[str, float] | None]:
    """What a row shows, and the number that sorting goes by; None where nothing is known."""
    mine = table[table["method"] == name]
    yield (rank_of(rank), sum(rank) / 2) if rank and difference(table, RANKED, name).n >= FEWEST else None
    for metric in measures:
        e = mean_of(paired(table, metric, name))
        yield (f"{number(e.value)}<small>{interval(e)}</small>", e.value) if e.n else None
    files, rtf, memory = mine["file"].nunique(), mine["rtf"].mean(), mine["peak_mb"].max()
    yield from ((str(files), files), (f"{rtf:.3f}", rtf), (f"{memory:.0f}", memory))
    parameters, minutes = made_of(name)
    yield (f"{parameters:,}" if name in METHODS else "–", parameters)
    yield (f"{minutes:.0f} min" if name in METHODS else "–", minutes)


def rank_of(rank: tuple[int, int]) -> str:
    """A range of ranks as people write it.

    >>> rank_of((1, 3)), rank_of((2, 2))
    ('1–3', '2')
    """
    return f"{rank[0]}–{rank[1]}" if rank[0] < rank[1] else str(rank[0])


def interval(e: Interval) -> str:
    """The interval of a mean, unless it stands on too little, and how many files have no value.

    >>> interval(Interval(1.0, 0.5, 1.5, 6)), interval(Interval(1.0, 0.5, 1.5, 2, missing=1))
    (' [0.5, 1.5]', ' (2/3)')
    """
    known = e.n >= FEWEST and e.has_interval
    return (f" [{number(e.low)}, {number(e.high)}]" if known else "") + e.coverage


def made_of(name: str) -> tuple[int, float]:
    """The parameters of a method's weights, and the minutes that their training took."""
    used = METHODS[name].cards if name in METHODS else ()
    parameters = sum(x.numel() for card in used for x in load(card).tensors.values())
    return parameters, sum(cards()[card]["train_seconds"] for card in (*used, *BEFORE.get(name, ()))) / 60
