"""The commands that need the lab, a module each; `sepriors.commands` says what a command is."""

import argparse

from sepriors.lab.corpora import Corpora
from sepriors.lab.corpora.sets import DOMAINS, SNRS, bench_set
from sepriors.signal.mixing import Mixture


def corpus_option(c: argparse.ArgumentParser) -> None:
    about = "'auto', 'synthetic' or a folder with a manifest.csv (default: auto)"
    c.add_argument("--corpus", default="auto", help=about)


def bench_options(c: argparse.ArgumentParser, default: str | None = None) -> None:
    """Those that `made_set` makes a bench set by."""
    about = f"bench set (default: {default})" if default else "write this bench set in place of two files"
    c.add_argument("--set", choices=sorted(SNRS), default=default, help=about)
    c.add_argument("--domain", choices=sorted(DOMAINS), default="matched")
    c.add_argument("--files", type=int, default=24, help="utterances of a bench set (default: 24)")
    c.add_argument("--seconds", type=float, default=4.0, help="of each utterance (default: 4)")
    c.add_argument("--split", choices=["valid", "test"], default="test", help="valid: to choose settings by")
    corpus_option(c)
    c.add_argument("--seed", type=int, default=0)


def made_set(opened: Corpora, a: argparse.Namespace) -> list[Mixture]:
    return bench_set(opened, a.set, domain=a.domain, files=a.files, seconds=a.seconds, split=a.split, seed=a.seed)
