"""`sepriors corpora`: the speech and noise at hand."""

import argparse

from sepriors.lab.commands import corpus_option as options
from sepriors.lab.corpora import open_corpora

__all__ = ["options", "run"]


def run(a: argparse.Namespace) -> None:
    opened = open_corpora(a.corpus)
    print(opened)
    print(opened.describe().to_string(index=False))
