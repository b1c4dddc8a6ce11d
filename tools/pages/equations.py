"""Equations to code: each labelled equation of the book, the functions that compute it, the tests that hold them to it.

The map is `book/equations.toml`. It cannot rot unseen: `complaints` holds it against the chapters, the package and the
tests, and a test of the project asks it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import tomllib
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tools import ROOT, chapters
from tools.pages.text import source_address

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
        for cell in _cells(path, "markdown")
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
    for node in _functions(path):
        if node.name == inner:
            return Place(inner, path, node.lineno, node.end_lineno or node.lineno)
    raise ValueError(f"{name}: {file} has no function {inner}")


def find_test(name: str) -> Place:
    """The place of a test; raises ValueError where there is none.

    Of a chapter, `book/07-use-ddp.ipynb::found`, that is an assertion about what it calls `found`.
    """
    file, _, inner = name.partition("::")
    if file.endswith(".ipynb"):
        place = find(name)
        if inner not in _asserted(place.path):
            raise ValueError(f"{name}: expected a chapter that asserts something of {inner}")
        return place
    if not re.fullmatch(r"tests/test_\w+\.py::test_\w+", name):
        raise ValueError(f"{name}: expected tests/test_MODULE.py::test_NAME or book/CHAPTER.ipynb::NAME")
    return find(name)


def complaints(source: Path = ROOT) -> list[str]:
    """All that is wrong with the map; each says what to do about it."""
    known, stated = read_map(source), labelled(source)
    labels = [equation.label for equation in stated]
    found = [f"{label}: labelled twice" for label in sorted({label for label in labels if labels.count(label) > 1})]
    found += [_missing(equation) for equation in stated if equation.label not in known]
    found += [
        f"{label}: listed in {MAP}, but no chapter labels it; remove it" for label in known if label not in labels
    ]
    for label, entry in known.items():
        found += [f"{label}: {complaint}" for complaint in _wrong(entry)]
    return found


def _missing(equation: Equation) -> str:
    return (
        f"{equation.chapter} labels {equation.label}, which {MAP} does not list. Add to it, with true names:\n\n"
        f'[{equation.label}]\ncode = ["sepriors.MODULE.FUNCTION"]\ntest = ["tests/test_MODULE.py::test_NAME"]\n\n'
        f'What only the chapter computes and asserts: "book/{equation.chapter}.ipynb::NAME".'
    )


def _wrong(entry: dict[str, list[str]]) -> list[str]:
    if set(entry) != {"code", "test"} or not all(isinstance(names, list) and names for names in entry.values()):
        return [f"expected code = [...] and test = [...], got {entry}"]
    found = [str(error) for name in entry["code"] if (error := _error(find, name))]
    found += [str(error) for name in entry["test"] if (error := _error(find_test, name))]
    return found or [f"none of its tests mentions {name}" for name in entry["code"] if not _mentioned(name, entry)]


def _error(look: Any, name: str) -> Exception | None:
    try:
        look(name)
    except ValueError as error:
        return error
    return None


def _mentioned(name: str, entry: dict[str, list[str]]) -> bool:
    """Whether a file of its tests knows the function, or the class that it is a method of."""
    *before, last = re.split(r"::|\.", name)
    words = "|".join([last, *(word for word in before if word[0].isupper())])
    return any(re.search(rf"\b({words})\b", (ROOT / test.split("::")[0]).read_text()) for test in entry["test"])


# ---- where things stand ---------------------------------------------------------------------------------------------


def _in_package(name: str) -> Place:
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        thing: Any = module
        for part in parts[count:]:
            thing = getattr(thing, part, None)
        if not callable(thing):
            break
        lines, first = inspect.getsourcelines(inspect.unwrap(thing))
        path = inspect.getsourcefile(inspect.unwrap(thing))
        return Place(".".join(parts[count - 1 :]), Path(str(path)), first, first + len(lines) - 1)
    raise ValueError(f"{name}: expected a function or a class of the package, there is none of that name")


@cache
def _functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]


def _cells(path: Path, kind: str) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@cache
def code_of(path: Path) -> list[ast.Module]:
    """The syntax trees of a notebook's code cells."""
    return [ast.parse(cell) for cell in _cells(path, "code")]


def _defined(path: Path) -> set[str]:
    """The functions, classes and variables that a notebook makes in its cells."""
    nodes = [node for tree in code_of(path) for node in ast.walk(tree)]
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _asserted(path: Path) -> set[str]:
    """The names in a notebook's assertions: `assert ...` and `assert_close(...)`."""
    found = set()
    for node in (node for tree in code_of(path) for node in ast.walk(tree)):
        asserts = isinstance(node, ast.Assert) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].startswith("assert_")
        )
        if asserts:
            found |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return found


# ---- the page -------------------------------------------------------------------------------------------------------


def page(source: Path = ROOT) -> str:
    """The page in MyST Markdown; raises ValueError for an equation that the map does not list."""
    known, parts = read_map(source), []
    for chapter, stated in groupby(labelled(source), key=lambda equation: equation.chapter):
        parts += [f"## {_title(source / 'book' / f'{chapter}.ipynb')}", ""]
        for equation in stated:
            if equation.label not in known:
                raise ValueError(_missing(equation))
            parts += _entry(equation, known[equation.label])
    return "\n".join(
        [
            "# From equations to code",
            "",
            "Every labelled equation of the book, the functions that compute it, and the tests that hold them to it.",
            "A test checks this page: an equation that is missing here, a function or a test that is not there, stop",
            "the build. A toy is computed and asserted *in its chapter*.",
            "",
            *(parts or ["No chapter labels an equation."]),
            "",
        ]
    )


def _title(path: Path) -> str:
    return _cells(path, "markdown")[0].partition("\n")[0].removeprefix("# ")


def _entry(equation: Equation, entry: dict[str, list[str]]) -> list[str]:
    code = ", ".join(_link(find(name)) for name in entry["code"])
    test = ", ".join(_link(find_test(name)) for name in entry["test"])
    return [
        f"**Equation** {{eq}}`{equation.label}`",
        "",
        "```{math}",
        equation.formula,
        "```",
        "",
        f"- computed by {code}",
        f"- held to it by {test}",
        "",
    ]


def _link(place: Place) -> str:
    """A link to a place."""
    if place.path.suffix == ".ipynb":
        return f"`{place.name}` [in the chapter](/book/{place.path.name})"
    return f"[`{place.name}`]({source_address(place.path, place.first, place.last)})"
