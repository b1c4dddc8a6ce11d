"""The trust cards, one a prior, and the guide that cites them: from the records of the chapters."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from sepriors.lab import standings
from sepriors.lab.bench import NOISY, mean_of, paired
from tools import ROOT
from tools.pages import leaderboard as board
from tools.pages.text import measurement, number, render

QUICK = 0.1  # real-time factor


def page(tree: Path, source: Path = ROOT) -> str:
    """The page in MyST Markdown."""
    found = board.read(tree, "trust")
    cards = found["records"] if found else []
    return render(
        "trust.md.jinja",
        chapter=board.CHAPTER,
        record=found,
        advice=list(guide({name: bench.table for name, bench in board.read_benches(source / "records").items()})),
        surest=max(
            (card for card in cards if card["mean AUROC"] != "–"),
            key=lambda card: float(card["least AUROC"].split()[0]),
            default=None,
        ),
        falls={card["prior"]: float(fall) for card in cards if _is_number(fall := card["fall after the peak (dB)"])},
        cards=cards,
        minutes={card["method"]: standings.made_of(card["method"])[1] for card in cards},
        falls_of_flows=falls(tree),
        toys=glued(tree, "05-samplers") | glued(tree, "06-udiffse"),
    )


def glued(tree: Path, chapter: str) -> dict[str, str]:
    """The values that a chapter glued into its text, by name; none of a chapter that was not run."""
    path = tree / "runs" / f"{chapter}.ipynb"
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    values = {}
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            text = next((value for key, value in output["data"].items() if key.endswith("text/plain")), "")
            values[name] = "".join(text).strip("'")
    return values


def falls(tree: Path) -> list[str]:
    """What chapter 3 measured of a climb that goes on past its peak."""
    path = tree / "records" / "03-flow-map" / "claims.json"
    verdicts = json.loads(path.read_text())["verdicts"] if path.exists() else []
    evidence = [item for verdict in verdicts for item in verdict["evidence"]]
    return [measurement(item) for item in evidence if "fall from the peak" in item["label"]]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def guide(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Advice for people who want speech enhanced, each with the figures it rests on."""
    if "matched" not in tables:
        return
    matched = tables["matched"]
    rtf = matched.groupby("method")["rtf"].mean()
    names = standings.methods_in(matched)
    blind = [name for name in names if name not in standings.SUPERVISED]
    yield _advice(
        f"It should just work, at {QUICK:g} of real time or less",
        matched,
        [name for name in names if rtf[name] <= QUICK],
    )
    yield _advice(
        "There are no pairs to learn from, and real time is enough", matched, [name for name in blind if rtf[name] <= 1]
    )
    needs = {"mismatched": "The speech is unlike what the weights were trained on", "white": "The noise is white"}
    for bench, need in needs.items():
        if bench in tables:
            yield _advice(need, tables[bench], standings.methods_in(tables[bench]))


def _advice(need: str, table: pd.DataFrame, names: list[str]) -> str:
    """The quickest of those that are not told apart from the best of some methods."""
    part = table[table["method"].isin([*names, NOISY])]
    rtf = part.groupby("method")["rtf"].mean()
    best, *others = standings.by_gain(part)
    signs = standings.verdicts(part)
    tied = [name for name in others if not signs.loc[best, name]]
    name = min([best, *tied], key=lambda name: rtf[name])
    gains = [mean_of(paired(part, metric, name)) for metric in ("si_sdr", "pesq_wb")]
    figures = [f"{number(e.value)}{board.interval(e)}" if e.n else "not measured" for e in gains]
    alike = ", ".join(f"`{other}`" for other in [best, *tied] if other != name)
    rest = f"Not told apart from it, and slower: {alike}." if alike else "The others that do are worse."
    return (
        f"**{need}**: `{name}`. SI-SDR {figures[0]} dB, PESQ {figures[1]}, at {rtf[name]:.3f} of real time, on "
        f"{gains[0].n} files. {rest}"
    )
