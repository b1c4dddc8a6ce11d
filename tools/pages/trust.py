"""The trust cards, one a prior, and the guide that cites them: from the records of the chapters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepriors.lab.bench import difference, mean_of, paired
from tools.pages.leaderboard import (
    CHAPTER,
    FEWEST,
    TOLD,
    facts,
    interval,
    made_of,
    methods_in,
    rank_of,
    ranks,
    read,
    read_benches,
)
from tools.pages.text import measurement, number, render

# What the toys of the chapters say of a posterior, by prior: (chapter, name of the value, what it is)
CHAINS = [
    ("05-samplers", "toy_mh", "spread by Metropolis-Hastings, a frame at a time {} %"),
    ("05-samplers", "toy_langevin", "by Langevin dynamics {} %"),
]
TOYS = {
    "VAE": CHAINS,
    "recurrent VAE": CHAINS,
    "diffusion": [
        ("06-udiffse", "toy_low", "mean off by {} posterior standard deviations at −5 dB"),
        ("06-udiffse", "toy_exact", "{} where the conditioning is exact"),
    ],
}
QUICK = 0.1  # real-time factor


def page(tree: Path) -> str:
    """The page in MyST Markdown."""
    found = read(tree, "trust")
    cards = found["records"] if found else []
    return render(
        "trust.md.jinja",
        chapter=CHAPTER,
        facts=facts(found) if found else "",
        advice=list(guide(read_benches(tree)[1], cards)) if found else [],
        cards=[(card["prior"], card["method"], list(_card(card, tree))) for card in cards],
    )


def _card(card: Mapping[str, Any], tree: Path) -> Iterator[str]:
    for name, value in card.items():
        if name not in ("prior", "method"):
            minus = str(value)[:1] == "-" and str(value)[1:2].isdigit()
            yield f"{name}: {str(value).replace('-', '−') if minus else value}"
    if card["prior"] == "WaveGlow":
        yield from falls(tree)
    yield f"training: {made_of(card['method'])[1]:.0f} minutes, of what it began from, too"
    toys = [(text, glued(tree, chapter).get(key)) for chapter, key, text in TOYS.get(card["prior"], [])]
    if said := [text.format(value) for text, value in toys if value]:
        yield f"posterior on the toy: {', '.join(said)}"


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


def guide(tables: Mapping[str, pd.DataFrame], cards: list[dict[str, Any]]) -> Iterator[str]:
    """Advice for people who want speech enhanced, each with the figures it rests on."""
    matched = tables["matched"]
    rtf = matched.groupby("method")["rtf"].mean()
    names = methods_in(matched)
    blind = [name for name in names if name not in TOLD]
    yield _advice("It should just work, now", matched, _best(matched, [n for n in names if rtf[n] <= QUICK]))
    yield _advice("There are no pairs to learn from", matched, _best(matched, [n for n in blind if rtf[n] <= 1]))
    needs = {"mismatched": "The speech is unlike what the weights were trained on", "white": "The noise is white"}
    for bench, need in needs.items():
        if bench in tables:
            yield _advice(need, tables[bench], _best(tables[bench], methods_in(tables[bench])))
    if rated := [card for card in cards if card["mean AUROC"] != "–"]:
        best = max(rated, key=lambda card: float(card["least AUROC"].split()[0]))
        yield (
            "**Is this speech?** No prior's likelihood is safe against all impostors. The least bad is "
            f"{best['prior']}: its worst AUROC is {best['least AUROC']}, its mean {best['mean AUROC']}. "
            "Below .5 it prefers the impostor."
        )
    fall = {card["prior"]: card["fall after the peak (dB)"] for card in cards}
    if known := {prior: float(text) for prior, text in fall.items() if text.replace(".", "", 1).isdigit()}:
        yield (
            f"**How many rounds?** The largest fall after the peak, of {', '.join(known)}, is "
            f"{max(known.values()):.1f} dB, on three excerpts; the chapter's figure shows who needs them all. "
            "An exact density is another matter, see WaveGlow's card."
        )


def _best(table: pd.DataFrame, names: list[str]) -> str:
    return max(names, key=lambda name: difference(table, "si_sdr", name).value)


def _advice(need: str, table: pd.DataFrame, name: str) -> str:
    gains = [mean_of(paired(table, metric, name)) for metric in ("si_sdr", "pesq_wb")]
    figures = [f"{number(e.value)}{interval(e)}" if e.n else "not measured" for e in gains]
    rtf = table[table["method"] == name]["rtf"].mean()
    known = gains[0].n >= FEWEST
    rank = f"rank {rank_of(ranks(table)[name])} of {len(methods_in(table))}" if known else "too few to rank,"
    return (
        f"**{need}**: `{name}`. SI-SDR {figures[0]} dB, PESQ {figures[1]}, at {rtf:.3f} of real time; "
        f"{rank} on {gains[0].n} files."
    )
