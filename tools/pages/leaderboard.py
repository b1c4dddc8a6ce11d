"""The leaderboard: every method on every set, from the records that are valid and nothing else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sepriors.lab import plots, records
from sepriors.lab.bench import difference, mean_of, paired
from sepriors.lab.claims import Interval
from sepriors.lab.corpora import class_of
from sepriors.lab.standings import FALSE, SUPERVISED, by_gain, front, made_of, methods_in, ranks, stands_on
from sepriors.methods import METHODS
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
FIGURE = "leaderboard.svg"
ROWS = "sets.csv"  # every row of every set, to download


class Bench(NamedTuple):
    """A set as the page shows it: its table of valid records, and what is wrong with the others, by method."""

    made: records.RecordSet
    table: pd.DataFrame
    problems: dict[str, str]

    @property
    def stands_on(self) -> str:
        """How many files, speakers and recordings are behind a row, and at which SNRs."""
        snrs = ", ".join(f"{snr:g}".replace("-", "−") for snr in sorted(self.table["snr_db"].unique()))
        return stands_on(self.table) + (f", at {snrs} dB" if self.made.kind in ("real", "white") else "")


def read_benches(where: Path | None = None) -> dict[str, Bench]:
    """The sets of which there are valid records beside that of the noisy mixture, by name."""
    if where is not None and not where.is_dir():
        return {}
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
    if benches:
        rows = [bench.table.assign(set=name) for name, bench in benches.items()]
        (tree / "records").mkdir(parents=True, exist_ok=True)
        pd.concat(rows).to_csv(tree / "records" / ROWS, index=False)
    static = tree / "book" / "_static" / FIGURE
    return render(
        "leaderboard.md.jinja",
        fewest=FEWEST,
        false_rate=FALSE,
        figure=FIGURE,
        rows=ROWS,
        front=draw_front(benches["matched"].table, static) if "matched" in benches else [],
        benches=[
            (bench, html(bench.table, bench.made.title), by_kind(bench.table, bench.made.title))
            for bench in benches.values()
        ],
        published=tomllib.loads((ROOT / "book" / "published.toml").read_text("utf-8"))["row"],
    )


def draw_front(table: pd.DataFrame, path: Path) -> list[str]:
    """Draw gain against cost into an SVG file; returns the methods on the front."""
    rtf, title = table.groupby("method")["rtf"].mean(), "gain in SI-SDR (dB)"
    gain = {name: difference(table, RANKED, name).value for name in methods_in(table)}
    best = front(rtf, gain)
    with plots.plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": CHAPTER}):
        figure = plots.fronts(rtf, {title: gain}, {title: best}, SUPERVISED)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    return best


def html(table: pd.DataFrame, title: str = "") -> str:
    """The table of one set, sortable by a script, ranked without it; `title` tells its region from others'."""
    shown = {metric: title for metric, title in MEASURES.items() if metric in table}
    ranked = ranks(table) if RANKED in shown else {}
    rows = {name: list(_cells(table, name, shown, ranked.get(name))) for name in by_gain(table, next(iter(shown)))}
    departures = {name: entry.departures or "none" for name, entry in METHODS.items()}
    return render(
        "bench.html.jinja",
        label=f"Methods and measures{title and f': {title}'}",
        measures=shown.values(),
        first=SHOWN,
        rows=rows,
        supervised=SUPERVISED,
        departures=departures,
    )


def by_kind(table: pd.DataFrame, title: str = "") -> str:
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
    rows = {name: gains[name] for name in by_gain(table, RANKED)}
    label = f"Gain in SI-SDR by kind of noise and by SNR{title and f': {title}'}"
    return render("kinds.html.jinja", label=label, columns=list(zip(columns, counts, strict=True)), rows=rows)


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
