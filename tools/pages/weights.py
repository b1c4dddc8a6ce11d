"""The weights page: every card, what it is, what it was trained on, what that took, and how to train it again."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sepriors.lab.recipes import RECIPES
from sepriors.methods import METHODS
from sepriors.weights import cards, folder, load
from tools import ROOT, chapters
from tools.pages.equations import code_of
from tools.pages.text import WIDE, list_table

LONG = 60  # characters above which a licence is folded
PARTS = {"speech": "mixed speech", "noise": "mixed noise", "clean": "clean speech", "alone": "noise alone"}


def page(source: Path = ROOT) -> str:
    """The page in MyST Markdown; raises WeightsError for weights that are not the ones of their card."""
    known = cards()
    rows = [_row(name, card, source) for name, card in known.items()]
    head = ["Card", "Family", "Size", "Trained on", "Training", "Used by"]
    return "\n".join(
        [
            WIDE,
            "# Weights",
            "",
            "What the package has learned, a card each; the table is written from `sepriors/cards/cards.toml`, the",
            "weights and the code. Weights are safetensors, checked by their sha256 before they are used.",
            "*Not in the package*: only the measures on the card are used; its command makes the weights.",
            "",
            _total(known),
            "",
            *list_table(head, rows, [27, 13, 10, 18, 18, 14], "weights"),
            "",
        ]
    )


def _total(known: Mapping[str, Mapping[str, Any]]) -> str:
    shipped = [card for card in known.values() if _path(card).is_file()]
    size, hours = sum(card["bytes"] for card in shipped) / 1e6, sum(card["train_seconds"] for card in shipped) / 3600
    return (
        f"{len(known)} cards, {len(shipped)} of them with weights in the package: {size:.1f} MB in all, "
        f"{hours:.1f} hours of training."
    )


def _row(name: str, card: Mapping[str, Any], source: Path) -> list[str]:
    users = [f"`{method}`" for method in methods_of(name)] + [_chapter(stem) for stem in chapters_of(name, source)]
    return [
        f"**{name}**<br>{escape(card['about'])}",
        f"{family(name)}<br>{_parameters(name, card)}",
        f'{_size(card["bytes"])}<br><code title="sha256 {card["sha256"]}">{card["sha256"][:8]}</code>',
        f"{escape(card['corpus'])}<br>{_minutes(card)}<br>{_licence(card['licence'])}",
        f"{card['train_seconds']:.0f} s on {escape(card['hardware'])}<br>`{card['command']}`",
        "<br>".join(users) or "–",
    ]


def family(name: str) -> str:
    """The family of a card's prior; of one without weights, that of a card with a recipe of the same kind.

    >>> family("use-ddp"), family("use-ddp-scratch"), family("nmf-speech")
    ('codec', 'codec', 'nmf')
    """
    for like, card in {name: cards()[name], **cards()}.items():
        if type(RECIPES[like]) is type(RECIPES[name]) and _path(card).is_file():
            return load(like).config.get("family", "nmf")
    return "–"


def _path(card: Mapping[str, Any]) -> Path:
    return folder() / card["file"]


def _parameters(name: str, card: Mapping[str, Any]) -> str:
    if not _path(card).is_file():
        return "*not in the package*"
    return f"{sum(x.numel() for x in load(name).tensors.values()):,} parameters"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _minutes(card: Mapping[str, Any]) -> str:
    parts = [f"{card[f'{key}_minutes']} {name}" for key, name in PARTS.items() if card.get(f"{key}_minutes")]
    return f"{card['minutes']} minutes{': ' if parts else ''}{', '.join(parts)}"


def _licence(text: str) -> str:
    if len(text) <= LONG:
        return escape(text)
    own, _, rest = text.partition("; ")
    return f"<details><summary>{escape(own)}</summary>{escape(rest)}</details>"


def _chapter(stem: str) -> str:
    return f"[](/book/{stem}.ipynb)"


def methods_of(card: str) -> list[str]:
    """The methods of the command line that need a card.

    >>> methods_of("diffusion-supervised")
    ['diffusion-supervised']
    """
    return [method for method, entry in METHODS.items() if card in entry.cards]


def chapters_of(card: str, source: Path = ROOT) -> list[str]:
    """The chapters whose code names a card, or a method that needs it."""
    wanted = {card, *methods_of(card)}
    return [path.stem for path in chapters(source) if wanted & _named(path, wanted)]


def _named(path: Path, wanted: set[str]) -> set[str]:
    """Those of the names that stand in a notebook's code as a text, or fit one with a place to fill in."""
    nodes = [node for tree in code_of(path) for node in ast.walk(tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    patterns = [_pattern(node) for node in nodes if isinstance(node, ast.JoinedStr)]
    return {name for name in wanted if name in texts or any(re.fullmatch(pattern, name) for pattern in patterns)}


def _pattern(node: ast.JoinedStr) -> str:
    """What f"vae-seed{i}" can stand for; a text that begins with a place to fill in stands for nothing here."""
    parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
    return "".join(parts) if parts and parts[0] != r"\w+" else r"(?!)"
