"""`sepriors methods`: what there is, the weights it needs, and where it departs from its paper."""

import argparse

from sepriors.methods import METHODS


def options(c: argparse.ArgumentParser) -> None:
    """It has none."""


def run(_: argparse.Namespace) -> None:
    rows = [("method", "what it is [weights]", "departures from its paper")]
    for name, spec in METHODS.items():
        cards = f" [{', '.join(spec.cards)}]" if spec.cards else ""
        rows.append((name, spec.about + cards, spec.departures or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
