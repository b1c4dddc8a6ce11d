"""The weights page: every card, what it is, what it was trained on, what that took, and how to train it again."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sepriors.lab.recipes import RECIPES
from sepriors.methods import METHODS
from sepriors.weights import cards, folder, load
from tools import ROOT, chapters
from tools.pages.equations import cells_of
from tools.pages.text import render


def page(source: Path = ROOT) -> str:
    """The page in MyST Markdown; raises WeightsError for weights that are not the ones of their card."""
    known = cards()
    shipped = {name: card for name, card in known.items() if _is_shipped(card)}
    return render(
        "weights.md.jinja",
        cards=known,
        shipped=shipped,
        parameters={name: sum(x.numel() for x in load(name).tensors.values()) for name in shipped},
        family=family,
        methods_of=methods_of,
        chapters={name: chapters_of(name, source) for name in known},
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
    return [path.stem for path in chapters(source) if any(_texts(path).fullmatch(name) for name in wanted)]


@cache
def _texts(path: Path) -> re.Pattern[str]:
    """Matches each text that stands in a notebook's code, and what one with a place to fill in can stand for."""
    texts = re.findall(r'"([\w-][^"\n]*)"', "\n".join(cells_of(path, "code")))
    return re.compile("|".join(re.sub(r"\\\{.*?\\\}", r"\\w+", re.escape(text)) for text in texts))
