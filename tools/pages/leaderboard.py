"""The leaderboard: every method of the book on one bench, from the records of the last chapter and nothing else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from sepriors.lab import plots
from sepriors.lab.bench import NOISY, difference, mean_of, paired
from sepriors.lab.claims import Interval
from sepriors.methods import METHODS
from sepriors.weights import cards, load
from tools import ROOT
from tools.pages.text import WIDE, number

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


def read(tree: Path, name: str) -> dict[str, Any] | None:
    """A record of the last chapter, or None where it left none, or one of a smoke run."""
    path = tree / "records" / CHAPTER / f"bench-{name}.json"
    record: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return record if record and record["profile"] != "smoke" else None


def page(tree: Path, source: Path = ROOT) -> str:
    """The page in MyST Markdown; the figure of quality and cost goes into the tree's `_static`."""
    found = {name: record for name in BENCHES if (record := read(tree, name))}
    tables = {name: pd.DataFrame(record["records"]) for name, record in found.items()}
    lines = [
        WIDE,
        "# Leaderboard",
        "",
        f"Written from the records of [](/book/{CHAPTER}.ipynb) by the build. Each figure is the mean difference to",
        "the noisy input with its 95 % interval over speakers and recordings of noise. A rank is a range: the least",
        "and the largest that paired differences in SI-SDR leave open, each tested by itself. An interval over few",
        f"files is rough, as the chapter shows: below {FEWEST} files there is neither interval nor rank. Where files",
        "have no value, (n/of) says how many have one. Times are of one run on the machine that is named; memory is",
        "that of a process which does nothing but enhance half a second, Python and PyTorch included. A click on a",
        "heading sorts.",
        "",
    ]
    if not tables:
        return "\n".join([*lines, "*No records: the last chapter was not run, or on seconds of audio only.*", ""])
    if "matched" in tables:
        static = tree / "book" / "_static" / FIGURE
        front = draw_front(tables["matched"], static)
        lines += [
            f"```{{image}} _static/{FIGURE}",
            f":alt: Gain in SI-SDR against the real-time factor. Beaten by nobody that is quicker: {', '.join(front)}.",
            ":width: 100%",
            "```",
            "",
            f"**Quality and cost**, {BENCHES['matched']}. Nobody who is quicker does better by SI-SDR than "
            + ", ".join(f"`{name}`" for name in front)
            + ". Squares were told by pairs of noisy and clean speech.",
            "",
        ]
    for name, table in tables.items():
        lines += [f"## {BENCHES[name]}", "", facts(found[name]), "", "```{raw} html", html(table), "```", ""]
    return "\n".join([*lines, *_published(source)])


def facts(record: Mapping[str, Any]) -> str:
    """What the figures of a record were measured on, and by which machine."""
    corpus = "; ".join(f"{key}: {value}" for key, value in record["corpus"].items())
    hardware = record["hardware"]
    return f"{corpus}. Seed {record['seed']}, commit {record['commit']}, {hardware['cpu']}, {hardware['cores']} cores."


def methods_in(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table["method"].unique() if name != NOISY]


def ranks(table: pd.DataFrame, metric: str = RANKED) -> dict[str, tuple[int, int]]:
    """The least and the largest rank of each method that its paired differences leave open.

    A method stands below those that beat it by an interval without zero, and above those that it beats so.
    """
    names = methods_in(table)
    above, below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for a, b in combinations(names, 2):
        winner = _winner(difference(table, metric, a, b))
        if winner:
            better, worse = (a, b) if winner > 0 else (b, a)
            below[better] += 1
            above[worse] += 1
    return {name: (1 + above[name], len(names) - below[name]) for name in names}


def _winner(e: Interval) -> int:
    """1 if the difference is above zero, -1 if it is below, 0 if its interval does not say."""
    return 1 if e.low > 0 else -1 if e.high < 0 else 0


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
            told = name in TOLD
            colour, alpha = plots.COLOURS[int(told)], 1.0 if name in front else 0.4
            ax.plot(rtf[name], value, "s" if told else "o", color=colour, alpha=alpha)
            ax.annotate(name, (rtf[name], value), xytext=(4, 3), textcoords="offset points", fontsize=7, alpha=alpha)
        ax.step([rtf[name] for name in front], [gain[name] for name in front], where="post", color="0.6", zorder=0)
        ax.set(xscale="log", xlabel="real-time factor", ylabel="gain in SI-SDR (dB)")
        ax.margins(x=0.1)  # a name stands to the right of its point
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plots.plt.close(figure)
    return front


# Methods that were told by pairs of noisy and clean speech; of the packages of others, RNNoise
TOLD = {name for name, entry in METHODS.items() if "supervised:" in entry.about} | {"rnnoise"}


def html(table: pd.DataFrame) -> str:
    """The table of one bench, sortable by a script, ranked without it."""
    places = ranks(table)
    means = {name: difference(table, RANKED, name).value for name in places}
    order = sorted(places, key=lambda name: -means[name])
    titles = ["Method", "Rank", *MEASURES.values(), "Files", "RTF", "Memory (MB)", "Parameters", "Training"]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    rows = "\n".join(f"<tr>{''.join(_cells(table, name, places[name]))}</tr>" for name in order)
    return (
        '<div class="leaderboard" tabindex="0" role="region" aria-label="Methods and measures">'
        f'<table class="sortable dataframe"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    )


def _cells(table: pd.DataFrame, name: str, rank: tuple[int, int]) -> list[str]:
    mine = table[table["method"] == name]
    files = mine["file"].nunique()
    cells = [f'<th scope="row">{escape(name)}{" ■" if name in TOLD else ""}</th>']
    known = difference(table, RANKED, name).n >= FEWEST
    cells.append(_cell(rank_of(rank), sum(rank) / 2) if known else "<td>–</td>")
    for metric in MEASURES:
        cells.append(_gain(mean_of(paired(table, metric, name))) if metric in mine else "<td>–</td>")
    cells.append(_cell(str(files), files))
    cells.append(_cell(f"{mine['rtf'].mean():.3f}", mine["rtf"].mean()))
    cells.append(_cell(f"{mine['peak_mb'].max():.0f}", mine["peak_mb"].max()))
    parameters, minutes = made_of(name)
    cells.append(_cell(f"{parameters:,}" if name in METHODS else "–", parameters))
    cells.append(_cell(f"{minutes:.0f} min" if name in METHODS else "–", minutes))
    return cells


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


def _gain(e: Interval) -> str:
    return "<td>–</td>" if not e.n else _cell(f"{number(e.value)}<small>{interval(e)}</small>", e.value)


def _cell(text: str, value: float) -> str:
    return f'<td data-value="{value:.6g}">{text}</td>'


def made_of(name: str) -> tuple[int, float]:
    """The parameters of a method's weights, and the minutes that their training took."""
    known = cards()
    used = METHODS[name].cards if name in METHODS else ()
    parameters = sum(x.numel() for card in used for x in load(card).tensors.values())
    used += BEFORE.get(name, ())
    return parameters, sum(known[card]["train_seconds"] for card in used) / 60


# Cards that a method's own began from: their training counts, their parameters are in its own
BEFORE = {"bsse": ("ssl",), "use-ddp": ("codec",)}


def _published(source: Path) -> list[str]:
    """What papers report, apart from ours: other data, other training."""
    rows = tomllib.loads((source / "book" / "published.toml").read_text("utf-8"))["row"]
    lines = [
        "## Published, other data",
        "",
        "What the papers report stands apart. Data, training and often the measures differ: only the order within this",
        "table means something, and no difference to the tables above.",
        "",
        "| Method | PESQ-wb | COVL | DNSMOS | Data | Source |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = " | ".join(str(row.get(name, "–")) for name in ("pesq_wb", "covl", "dnsmos_ovr"))
        lines.append(f"| {row['method']} | {figures} | {row['data']} | {{cite:t}}`{row['source']}` |")
    return [*lines, ""]
