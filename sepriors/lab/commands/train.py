"""`sepriors train`: the weights of a card, again."""

import argparse
import sys

from sepriors import weights
from sepriors.commands import out_options, require_free
from sepriors.lab import recipes, train
from sepriors.lab.commands import corpus_option
from sepriors.lab.corpora import open_corpora
from sepriors.lab.training import fitting


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("name", help=f"one of {', '.join(recipes.RECIPES)}")
    corpus_option(c)
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--devices", type=int, metavar="N", help="processes with a device each, on each node (default: 1)")
    c.add_argument("--nodes", type=int, metavar="N", help="machines, see the page on scale (default: 1)")
    c.add_argument("--accelerator", choices=["auto", "cpu", "cuda"], default="auto", help="what several devices are")
    out_options(c, weights.folder())


def run(a: argparse.Namespace) -> None:
    recipes.recipe(a.name)
    require_free([a.out / f"{a.name}.safetensors"], a.force)
    fabric = fitting.init_distributed(a.devices, a.nodes, a.accelerator)
    first = fabric is None or fabric.is_global_zero
    try:
        path = train.write_card(a.name, open_corpora(a.corpus), seed=a.seed, folder=a.out, fabric=fabric)
    except (ValueError, OSError):
        if first:
            raise
        sys.exit(2)  # the first process says why
    if first:
        about = f"{path.stat().st_size} bytes, sha256 {weights.sha256(path)}"
        print(f"{path}: {about}; its card is in {a.out / 'cards.toml'}")
