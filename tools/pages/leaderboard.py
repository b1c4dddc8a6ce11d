"""The leaderboard: every method of the book on one bench, from the records of the last chapter and nothing else."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from sepriors.lab import plots
from sepriors.lab.bench import NOISY, difference, mean_of, paired
from sepriors.lab.claims import Interval
from sepriors.lab.peers import PEERS
from sepriors.methods import METHODS
from sepriors.weights import cards, load
from tools import ROOT
from tools.pages.text import number, render

CHAPTER = "09-which-prior"
BENCHES = {
    "matched": "English in recorded noise",
    "mismatched": "German in recorded noise",
    "white": "English in white noise",
}
MEASURES = {
    "si_sdr": "SI-SDR (dB)",
    "pesq_wb": "PESQ-wb",
    "estoi": "ESTOI",
    "fwsnrseg": "fwSNRseg (dB)",
    "dnsmos_ovr": "DNSMOS overall",
}
FEWEST = 4  # files that an interval or a rank asks for
RANKED = "si_sdr"  # what the ranks go by
FIGURE = "leaderboard.svg"
# Methods that were trained on pairs of noisy and clean speech; of the packages of others, all but one
SUPERVISED = {name for name, entry in METHODS.items() if "supervised:" in entry.about}
SUPERVISED |= PEERS.keys() - {"noisereduce"}
# Cards that a method's own began from: their training counts, their parameters are in its own
BEFORE = {"bsse": ("ssl",), "use-ddp": ("codec",)}


def read(tree: Path, name: str) -> dict[str, Any] | None:
    """A record of the last chapter, or None where it left none, or one of a smoke run."""
    path = tree / "records" / CHAPTER / f"bench-{name}.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record if record and record["profile"] != "smoke" else None


def read_benches(tree: Path) -> tuple[dict[str, dict[str, Any]], dict[str, pd.DataFrame]]:
    """Records and tables of the benches that there are."""
    records = {name: record for name in BENCHES if (record := read(tree, name))}
    return records, {name: pd.DataFrame(record["records"]) for name, record in records.items()}


def page(tree: Path, source: Path = ROOT) -> str:
    """The page in MyST Markdown; the figure of quality and cost goes into the tree's `_static`."""
    records, tables = read_benches(tree)
    static = tree / "book" / "_static" / FIGURE
    return render(
        "leaderboard.md.jinja",
        chapter=CHAPTER,
        fewest=FEWEST,
        figure=FIGURE,
        front=draw_front(tables["matched"], static) if "matched" in tables else [],
        benches=[(BENCHES[name], records[name], html(table)) for name, table in tables.items()],
        published=tomllib.loads((source / "book" / "published.toml").read_text("utf-8"))["row"] if tables else [],
    )


def methods_in(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table["method"].unique() if name != NOISY]


def ranks(table: pd.DataFrame, metric: str = RANKED) -> dict[str, tuple[int, int]]:
    """The least and the largest rank of each method that its paired differences leave open.

    A method stands below those that beat it by an interval without zero, and above those that it beats so.
    """
    names = methods_in(table)
    above, below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for a, b in combinations(names, 2):
        e = difference(table, metric, a, b)
        if e.low > 0 or e.high < 0:
            better, worse = (a, b) if e.low > 0 else (b, a)
            below[better] += 1
            above[worse] += 1
    return {name: (1 + above[name], len(names) - below[name]) for name in names}


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
    """The table of one bench, sortable by a script, ranked without it."""
    places = ranks(table)
    order = sorted(places, key=lambda name: -difference(table, RANKED, name).value)
    rows = {name: list(_cells(table, name, places[name])) for name in order}
    departures = {name: entry.departures or "none" for name, entry in METHODS.items()}
    return render(
        "bench.html.jinja", measures=MEASURES.values(), rows=rows, supervised=SUPERVISED, departures=departures
    )


def _cells(table: pd.DataFrame, name: str, rank: tuple[int, int]) -> Iterator[tuple[str, float] | None]:
    """What a row shows, and the number that sorting goes by; None where nothing is known."""
    mine = table[table["method"] == name]
    is_ranked = difference(table, RANKED, name).n >= FEWEST
    yield (rank_of(rank), sum(rank) / 2) if is_ranked else None
    for metric in MEASURES:
        e = mean_of(paired(table, metric, name)) if metric in mine else None
        yield (f"{number(e.value)}<small>{interval(e)}</small>", e.value) if e and e.n else None
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
