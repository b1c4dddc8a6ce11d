"""The weights page: every card, what it is, what it was trained on, what that took, and how to train it again."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sepriors.lab.recipes import RECIPES
from sepriors.methods import METHODS
from sepriors.weights import cards, folder, load
from tools import ROOT, chapters
from tools.pages.equations import code_of
from tools.pages.text import render

PARTS = {"speech": "mixed speech", "noise": "mixed noise", "clean": "clean speech", "alone": "noise alone"}


def page(source: Path = ROOT) -> str:
    """The page in MyST Markdown; raises WeightsError for weights that are not the ones of their card."""
    known = cards()
    shipped = {name for name, card in known.items() if _is_shipped(card)}
    facts = {
        name: {
            "family": family(name),
            "parameters": sum(x.numel() for x in load(name).tensors.values()) if name in shipped else None,
            "minutes": [f"{card[f'{key}_minutes']} {what}" for key, what in PARTS.items() if card.get(f"{key}_minutes")],
            "methods": methods_of(name),
            "chapters": chapters_of(name, source),
        }
        for name, card in known.items()
    }
    megabytes = sum(known[name]["bytes"] for name in shipped) / 1e6
    hours = sum(known[name]["train_seconds"] for name in shipped) / 3600
    return render(
        "weights.md.jinja", cards=known, facts=facts, shipped=len(shipped), megabytes=megabytes, hours=hours
    )


def family(name: str) -> str:
    """The family of a card's prior; of one without weights, that of a card with a recipe of the same kind.

    >>> family("use-ddp"), family("use-ddp-scratch"), family("nmf-speech")
    ('codec', 'codec', 'nmf')
    """
    for like, card in {name: cards()[name], **cards()}.items():
        if type(RECIPES[like]) is type(RECIPES[name]) and _is_shipped(card):
            return load(like).config.get("family", "nmf")
    return "–"


def _is_shipped(card: Mapping[str, Any]) -> bool:
    return (folder() / card["file"]).is_file()


def methods_of(card: str) -> list[str]:
    """The methods of the command line that need a card.

    >>> methods_of("diffusion-supervised")
    ['diffusion-supervised']
    """
    return [method for method, entry in METHODS.items() if card in entry.cards]


def chapters_of(card: str, source: Path = ROOT) -> list[str]:
    """The chapters whose code names a card, or a method that needs it."""
    wanted = {card, *methods_of(card)}
    return [path.stem for path in chapters(source) if any(_is_named(name, *_written(path)) for name in wanted)]


def _is_named(name: str, texts: set[str], patterns: list[str]) -> bool:
    return name in texts or any(re.fullmatch(pattern, name) for pattern in patterns)


@cache
def _written(path: Path) -> tuple[set[str], list[str]]:
    """The texts that stand in a notebook's code, and what those with a place to fill in can stand for."""
    nodes = [node for tree in code_of(path) for node in ast.walk(tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return texts, [_pattern(node) for node in nodes if isinstance(node, ast.JoinedStr)]


def _pattern(node: ast.JoinedStr) -> str:
    """What f"vae-seed{i}" can stand for; a text that begins with a place to fill in stands for nothing here."""
    parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
    return "".join(parts) if parts and parts[0] != r"\w+" else r"(?!)"
