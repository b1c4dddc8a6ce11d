"""Equations to code: each labelled equation of the book, the functions that compute it, the tests that hold them to it.

The map is `book/equations.toml`. It cannot rot unseen: `complaints` holds it against the chapters, the package and the
tests, and a test of the project asks it.
"""

import ast
import inspect
import json
import pkgutil
import re
import tomllib
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tools import ROOT, chapters
from tools.pages.text import render, source_address

MAP = "book/equations.toml"
LABELLED = re.compile(r"^```\{math\}\n:label: (\S+)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


class Equation(NamedTuple):
    """A labelled equation, the chapter that states it, and its TeX."""

    label: str
    chapter: str
    formula: str


class Place(NamedTuple):
    """Something that the map names: its short name, its file, its first and last line there; 0 in a notebook."""

    name: str
    path: Path
    first: int
    last: int


def labelled(source: Path = ROOT) -> list[Equation]:
    """The labelled equations of the chapters, in their order.

    >>> [equation.label for equation in labelled()][:2]
    ['eq-mixture', 'eq-wiener']
    """
    return [
        Equation(label, path.stem, formula)
        for path in chapters(source)
        for cell in cells_of(path, "markdown")
        for label, formula in LABELLED.findall(cell)
    ]


def read_map(source: Path = ROOT) -> dict[str, dict[str, list[str]]]:
    """What `book/equations.toml` says: label -> {"code": names, "test": names}."""
    path = source / MAP
    return tomllib.loads(path.read_text("utf-8")) if path.exists() else {}


def find(name: str) -> Place:
    """The place of a name of the map; raises ValueError where there is no such thing.

    A name is that of something in the package, `sepriors.signal.gaussian.wiener`; a test,
    `tests/test_gaussian.py::test_...`; or something that a chapter itself defines, `book/07-use-ddp.ipynb::play`.

    >>> find("sepriors.signal.gaussian.wiener").path.name
    'gaussian.py'
    """
    file, _, inner = name.partition("::")
    if not inner:
        return _in_package(name)
    path = ROOT / file
    if not path.is_file():
        raise ValueError(f"{name}: there is no file {file}")
    if path.suffix == ".ipynb":
        if inner not in _defined(path):
            raise ValueError(f"{name}: expected a chapter that defines {inner}")
        return Place(inner, path, 0, 0)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == inner:
            return Place(inner, path, node.lineno, node.end_lineno or node.lineno)
    raise ValueError(f"{name}: {file} has no function {inner}")


def find_test(name: str) -> Place:
    """The place of a test; raises ValueError where there is none.

    Of a chapter, `book/07-use-ddp.ipynb::found`, that is an assertion about what it calls `found`.
    """
    file, _, inner = name.partition("::")
    if not (file.endswith(".ipynb") or re.fullmatch(r"tests/test_\w+\.py::test_\w+", name)):
        raise ValueError(f"{name}: expected tests/test_MODULE.py::test_NAME or book/CHAPTER.ipynb::NAME")
    place = find(name)
    if file.endswith(".ipynb") and inner not in _asserted(place.path):
        raise ValueError(f"{name}: expected a chapter that asserts something of {inner}")
    return place


def complaints(source: Path = ROOT) -> list[str]:
    """All that is wrong with the map; each says what to do about it."""
    known, stated = read_map(source), labelled(source)
    labels = [equation.label for equation in stated]
    found = [f"{label}: labelled twice" for label in sorted({label for label in labels if labels.count(label) > 1})]
    found += [
        f"{label}: listed in {MAP}, but no chapter labels it; remove it" for label in known if label not in labels
    ]
    for equation in stated:
        try:
            _entry(equation, known)
        except ValueError as error:
            found.append(f"{equation.label}: {error}")
    return found


def _missing(equation: Equation) -> str:
    return (
        f"{equation.chapter} labels {equation.label}, which {MAP} does not list. Add to it, with true names:\n\n"
        f'[{equation.label}]\ncode = ["sepriors.MODULE.FUNCTION"]\ntest = ["tests/test_MODULE.py::test_NAME"]\n\n'
        f'What only the chapter computes and asserts: "book/{equation.chapter}.ipynb::NAME".'
    )


def _mentioned(name: str, entry: dict[str, list[str]]) -> bool:
    """Whether a file of its tests knows the function, or the class that it is a method of."""
    *before, last = re.split(r"::|\.", name)
    words = "|".join([last, *(word for word in before if word[0].isupper())])
    return any(re.search(rf"\b({words})\b", (ROOT / test.split("::")[0]).read_text()) for test in entry["test"])


# ---- where things stand ---------------------------------------------------------------------------------------------


def _in_package(name: str) -> Place:
    try:
        thing = inspect.unwrap(pkgutil.resolve_name(name))
        lines, first = inspect.getsourcelines(thing)
    except (ImportError, AttributeError, TypeError):
        thing = None
    if not callable(thing):
        raise ValueError(f"{name}: expected a function or a class of the package, there is none of that name")
    short = ".".join(name.split(".")[-2 - thing.__qualname__.count(".") :])  # from its module's last name on
    return Place(short, Path(inspect.getfile(thing)), first, first + len(lines) - 1)


def cells_of(path: Path, kind: str) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@cache
def _nodes(path: Path) -> list[ast.AST]:
    """All nodes of the syntax trees of a notebook's code cells."""
    return [node for cell in cells_of(path, "code") for node in ast.walk(ast.parse(cell))]


def _defined(path: Path) -> set[str]:
    """The functions, classes and variables that a notebook makes in its cells."""
    named = {node.name for node in _nodes(path) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {node.id for node in _nodes(path) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _asserted(path: Path) -> set[str]:
    """The names in a notebook's assertions: `assert ...` and `assert_close(...)`."""
    said = [node for node in _nodes(path) if isinstance(node, ast.Assert | ast.Call)]
    said = [node for node in said if re.match(r"assert|(\w+\.)*assert_", ast.unparse(node))]
    return {inner.id for node in said for inner in ast.walk(node) if isinstance(inner, ast.Name)}


# ---- the page -------------------------------------------------------------------------------------------------------


def page(source: Path = ROOT) -> str:
    """The page in MyST Markdown; raises ValueError for an equation without a true entry in the map."""
    known, parts = read_map(source), {}
    for chapter, stated in groupby(labelled(source), key=lambda equation: equation.chapter):
        title = cells_of(source / "book" / f"{chapter}.ipynb", "markdown")[0].partition("\n")[0].removeprefix("# ")
        parts[title] = [_entry(equation, known) for equation in stated]
    return render("equations.md.jinja", parts=parts)


def _entry(equation: Equation, known: dict[str, dict[str, list[str]]]) -> tuple[Equation, list[str], list[str]]:
    """An equation, the links to what computes it, and those to its tests; ValueError if its entry is not true."""
    entry = known.get(equation.label)
    if entry is None:
        raise ValueError(_missing(equation))
    if set(entry) != {"code", "test"} or not all(isinstance(names, list) and names for names in entry.values()):
        raise ValueError(f"expected code = [...] and test = [...], got {entry}")
    code, test = [find(name) for name in entry["code"]], [find_test(name) for name in entry["test"]]
    for name in entry["code"]:
        if not _mentioned(name, entry):
            raise ValueError(f"none of its tests mentions {name}")
    return equation, [_link(place) for place in code], [_link(place) for place in test]


def _link(place: Place) -> str:
    if place.path.suffix == ".ipynb":
        return f"`{place.name}` [in the chapter](/book/{place.path.name})"
    return f"[`{place.name}`]({source_address(place.path, place.first, place.last)})"
