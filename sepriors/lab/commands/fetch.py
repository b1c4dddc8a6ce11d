"""`sepriors fetch`: a corpus onto the disk, or a folder of the user into the list."""

import argparse
from pathlib import Path

from sepriors.lab.corpora import READERS, fetch, import_folder, registry


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("name", help=f"one of {', '.join(registry())}; with --from also {', '.join(READERS)}")
    about = "a folder that holds the corpus already; its audio stays where it is"
    c.add_argument("--from", dest="folder", type=Path, help=about)


def run(a: argparse.Namespace) -> None:
    print(import_folder(a.name, a.folder) if a.folder else fetch(a.name))
