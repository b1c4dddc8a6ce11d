"""A module imports only from lower levels of the table in ARCHITECTURE.md."""

import ast
import re
from pathlib import Path

import pytest

import sepriors

PACKAGE = Path(sepriors.__file__).parent
TABLE = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
FACE = "__init__"  # the public face: it may import anything, and only the command may import from it


def levels():
    """Level by module, from the rows '| 6 | `claims` `plots` | ...'."""
    rows = re.findall(r"^\| (\d+) \| ((?:`[\w/]+` ?)+)\|", TABLE, re.MULTILINE)
    return {name.rstrip("/"): int(level) for level, names in rows for name in re.findall(r"`([\w/]+)`", names)}


LEVELS = levels()


def sources():
    """(module of the table, file) for every file of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != (FACE,) and parts[0] != "cards":
            yield parts[0], path


def imported(source: str, depth: int) -> set[str]:
    """The modules of the table that a source imports, wherever in it; `depth` folders below the package's own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = node.level - depth  # 1: the package itself
            if node.level and up < 1:
                continue  # a neighbour inside the same subpackage
            start = ["sepriors"] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "sepriors":
                found.add(rest[0] if rest and rest[0] in LEVELS else FACE)
    return found


def wrong(module: str, source: str, depth: int = 0) -> set[str]:
    """What a module imports against the rule."""
    there = imported(source, depth) - {module}
    return {m for m in there if (m == FACE and module != "__main__") or LEVELS.get(m, -1) >= LEVELS[module]}


def test_the_table_has_every_module_and_no_other():
    assert LEVELS.keys() == {module for module, _ in sources()}
    assert set(LEVELS.values()) == set(range(max(LEVELS.values()) + 1))


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=str(p.relative_to(PACKAGE))) for m, p in sources()])
def test_arrows_point_down(module, path):
    depth = len(path.relative_to(PACKAGE).parts) - 1
    assert wrong(module, path.read_text("utf-8"), depth) == set()


@pytest.mark.parametrize(
    ("module", "source", "depth", "caught"),
    [
        ("nmf", "from .methods import make", 0, {"methods"}),  # upward
        ("nmf", "from . import bench", 0, {"bench"}),
        ("nmf", "import sepriors.lab.plots", 0, {"plots"}),
        ("nmf", "from sepriors.inference.em import em", 0, {"em"}),
        ("nmf", "from sepriors import metrics, rng", 0, {"metrics"}),
        ("nmf", "from .spp import noise_power", 0, {"spp"}),  # sideways
        ("nmf", "def f():\n    if True:\n        from .weights import load", 0, {"weights"}),  # hidden in a function
        ("nmf", "from . import METHODS", 0, {FACE}),  # by way of the face
        ("nmf", "import sepriors as sp", 0, {FACE}),
        ("corpora", "from ..methods import make", 1, {"methods"}),  # from inside a subpackage
        ("corpora", "from .. import train", 1, {"train"}),
        ("nmf", "from .rng import rand\nfrom . import mixing, stft\nimport torch, bench", 0, {"mixing"}),
        ("corpora", "from .manifest import base\nfrom . import synthetic\nfrom ..audio import read", 1, set()),
        ("corpora", "from sepriors.lab.corpora import fetch", 0, set()),
        ("__main__", "from . import __version__, bench", 0, set()),
        ("methods", "from . import em, nmf", 0, set()),
    ],
)
def test_the_check_catches_what_it_should(module, source, depth, caught):
    assert wrong(module, source, depth) == caught
