"""The trust cards, one a prior, and the guide that cites them: from the records of the chapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepriors.lab.bench import difference, mean_of, paired
from tools.pages.leaderboard import CHAPTER, FEWEST, TOLD, facts, interval, made_of, methods_in, rank_of, ranks, read
from tools.pages.text import measurement, number

# What the toys of the chapters say of a posterior, by prior: (chapter, name of the value, what it is)
TOYS = {
    "VAE": [
        ("05-samplers", "toy_mh", "spread by Metropolis-Hastings, a frame at a time {} %"),
        ("05-samplers", "toy_langevin", "by Langevin dynamics {} %"),
    ],
    "recurrent VAE": [
        ("05-samplers", "toy_mh", "spread by Metropolis-Hastings, a frame at a time {} %"),
        ("05-samplers", "toy_langevin", "by Langevin dynamics {} %"),
    ],
    "diffusion": [
        ("06-udiffse", "toy_low", "mean off by {} posterior standard deviations at −5 dB"),
        ("06-udiffse", "toy_exact", "{} where the conditioning is exact"),
    ],
}
ADVICE = (
    "Each is the best by its mean on the very files that its figures come from; one whose range of ranks overlaps its "
    "own may be as good."
)
QUICK = 0.1  # real-time factor


def page(tree: Path) -> str:
    """The page in MyST Markdown."""
    lines = [
        "# Trust cards and a guide",
        "",
        f"A card a prior, written by the build from the records of [](/book/{CHAPTER}.ipynb) and the chapters' toys.",
        "*AUROC*: how often a clip of clean speech is more likely to the prior than one of what is not, the least over",
        "eight kinds of impostors, and the mean. *Fall after the peak*: what more rounds cost once the best is passed.",
        "*Lost*: decibels of gain between English and German, and between classes of noise with and without pairs;",
        "`spp-wiener`, which learned nothing, loses, too.",
        "",
    ]
    found = read(tree, "trust")
    if found is None:
        return "\n".join([*lines, "*No records: the last chapter was not run, or on seconds of audio only.*", ""])
    lines += [facts(found), ""]
    tables = {
        name: pd.DataFrame(record["records"]) for name in ("matched", "mismatched") if (record := read(tree, name))
    }
    white = read(tree, "white")
    if white:
        tables["white"] = pd.DataFrame(white["records"])
    lines += ["## Which one, then?", "", ADVICE, "", *guide(tables, found["records"]), "", "## The cards", ""]
    for card in found["records"]:
        lines += [f"### {card['prior'][0].upper()}{card['prior'][1:]}", "", *_card(card, tree), ""]
    return "\n".join(lines)


def _card(card: Mapping[str, Any], tree: Path) -> list[str]:
    told = [f"- {name}: {_plain(value)}" for name, value in card.items() if name not in ("prior", "method")]
    toys = [
        text.format(value)
        for chapter, key, text in TOYS.get(card["prior"], [])
        if (value := glued(tree, chapter).get(key))
    ]
    told += [f"- {line}" for line in falls(tree) if card["prior"] == "WaveGlow"]
    told.append(f"- training: {made_of(card['method'])[1]:.0f} minutes, of what it began from, too")
    return [f"By `{card['method']}`.", "", *told, *([f"- posterior on the toy: {', '.join(toys)}"] if toys else [])]


def _plain(value: Any) -> str:
    return str(value).replace("-", "−") if str(value)[:1] == "-" and str(value)[1:2].isdigit() else str(value)


def glued(tree: Path, chapter: str) -> dict[str, str]:
    """The values that a chapter glued into its text, by name; none of a chapter that was not run."""
    path = tree / "runs" / f"{chapter}.ipynb"
    if not path.exists():
        return {}
    outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", [])]
    values = {}
    for output in outputs:
        if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
            text = next(iter(v for key, v in output["data"].items() if key.endswith("text/plain")), "")
            values[name] = "".join(text).strip("'")
    return values


def falls(tree: Path) -> list[str]:
    """What chapter 3 measured of a climb that goes on past its peak."""
    path = tree / "records" / "03-flow-map" / "claims.json"
    verdicts = json.loads(path.read_text())["verdicts"] if path.exists() else []
    evidence = [item for verdict in verdicts for item in verdict["evidence"]]
    return [measurement(item) for item in evidence if "fall from the peak" in item["label"]]


def guide(tables: Mapping[str, pd.DataFrame], cards: list[dict[str, Any]]) -> list[str]:
    """Advice for people who want speech enhanced, each with the figures it rests on."""
    matched = tables["matched"]
    rtf = matched.groupby("method")["rtf"].mean()
    names = methods_in(matched)
    blind = [name for name in names if name not in TOLD]
    lines = [
        _advice("It should just work, now", matched, _best(matched, [n for n in names if rtf[n] <= QUICK])),
        _advice("There are no pairs to learn from", matched, _best(matched, [n for n in blind if rtf[n] <= 1])),
    ]
    if "mismatched" in tables:
        far = tables["mismatched"]
        lines.append(_advice("The speech is unlike what the weights were trained on", far, _best(far, methods_in(far))))
    if "white" in tables:
        hiss = tables["white"]
        lines.append(_advice("The noise is white", hiss, _best(hiss, methods_in(hiss))))
    rated = [card for card in cards if card["mean AUROC"] != "–"]
    if rated:
        best = max(rated, key=lambda card: float(card["least AUROC"].split()[0]))
        lines.append(
            "- **Is this speech?** No prior's likelihood is safe against all impostors. The least bad is "
            f"{best['prior']}: its worst AUROC is {best['least AUROC']}, its mean {best['mean AUROC']}. "
            "Below .5 it prefers the impostor."
        )
    falls = {card["prior"]: float(fall) for card in cards if _number(fall := card["fall after the peak (dB)"])}
    if falls:
        worst = max(falls, key=lambda prior: falls[prior])
        lines.append(
            f"- **How many rounds?** The largest fall after the peak, of {', '.join(falls)}, is {falls[worst]:.1f} dB, "
            "on three excerpts; the chapter's figure shows who needs them all. An exact density is another matter, see "
            "WaveGlow's card."
        )
    return lines


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _best(table: pd.DataFrame, names: list[str]) -> str:
    return max(names, key=lambda name: difference(table, "si_sdr", name).value)


def _advice(need: str, table: pd.DataFrame, name: str) -> str:
    gains = [mean_of(paired(table, metric, name)) for metric in ("si_sdr", "pesq_wb")]
    figures = [f"{number(e.value)}{interval(e)}" if e.n else "not measured" for e in gains]
    mine = table[table["method"] == name]
    known = gains[0].n >= FEWEST
    rank = f"rank {rank_of(ranks(table)[name])} of {len(methods_in(table))}" if known else "too few to rank,"
    return (
        f"- **{need}**: `{name}`. SI-SDR {figures[0]} dB, PESQ {figures[1]}, at {mine['rtf'].mean():.3f} of real time; "
        f"{rank} on {gains[0].n} files."
    )
