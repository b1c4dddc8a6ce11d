"""The API reference: declarations and docstrings of the package's modules, a page a folder of the package.

It reads the sources rather than the objects: a declaration stands as it is written, and so do the fields of a class
with the comments beside them. Docstrings are Markdown with formulas, which MyST shows as they are.
"""

import ast
from argparse import _SubParsersAction
from collections import defaultdict
from pathlib import Path
from textwrap import dedent
from typing import Any

from sepriors.__main__ import COMMANDS, parser
from tools import ROOT
from tools.pages.equations import labelled, read_map
from tools.pages.text import render, source_address

PACKAGE = ROOT / "sepriors"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def rooms() -> dict[str, list[Path]]:
    """The folders of the package by their dotted names, and the modules of each.

    >>> [path.stem for path in rooms()["sepriors.signal"]][:4]
    ['__init__', 'audio', 'front_ends', 'gaussian']
    """
    found = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        found[module(path.parent)].append(path)
    return {room: paths for room, paths in found.items() if room != "sepriors.cards"}


def module(path: Path) -> str:
    """The dotted name of a file or a folder of the package.

    >>> module(PACKAGE / "priors" / "vae.py"), module(PACKAGE / "priors" / "__init__.py")
    ('sepriors.priors.vae', 'sepriors.priors')
    """
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def pages(source: Path = ROOT) -> dict[str, str]:
    """Name and MyST Markdown of each page: `api`, the index, and one a room, `api-core`, `api-lab-corpora`."""
    computed = _computed(source)
    known = {room: [_module(path, computed) for path in paths] for room, paths in rooms().items()}
    face = known["sepriors"].pop(0)
    found = {"api": render("api.md.jinja", face=face, rooms=known)}
    for room, modules in known.items():
        name = room.removeprefix("sepriors").lstrip(".").replace(".", "-") or "core"
        found[f"api-{name}"] = render("room.md.jinja", room=room, modules=modules)
    return found


def _computed(source: Path) -> dict[str, list[str]]:
    """The equations of the book by the name of what computes them."""
    found, known = defaultdict(list), read_map(source)
    for equation in labelled(source):
        for name in known.get(equation.label, {}).get("code", []):
            found[name].append(f"equation {{eq}}`{equation.label}` of [](/book/{equation.chapter}.ipynb)")
    return found


def _module(path: Path, computed: dict[str, list[str]]) -> dict[str, Any]:
    """What a template shows of a module: its name, its docstring, its public functions and classes, its commands."""
    tree, lines = ast.parse(path.read_text("utf-8")), path.read_text("utf-8").splitlines()
    nodes = [node for node in tree.body if isinstance(node, Function | ast.ClassDef) and _is_public(node)]
    return {
        "name": module(path),
        "docstring": ast.get_docstring(tree) or "",
        "entries": [_entry(node, path, lines, computed) for node in nodes],
        "commands": _commands() if path.stem == "__main__" else {},
    }


def _entry(node: Any, path: Path, lines: list[str], computed: dict[str, list[str]]) -> dict[str, Any]:
    name = f"{module(path)}.{node.name}"
    own = [link for known, links in computed.items() if f"{known}.".startswith(f"{name}.") for link in links]
    methods = [part for part in node.body if isinstance(part, Function)] if isinstance(node, ast.ClassDef) else []
    return {
        "name": node.name,
        "parts": [
            (declaration(part, lines), ast.get_docstring(part))
            for part in (node, *(method for method in methods if ast.get_docstring(method) and _is_public(method)))
        ],
        "links": [f"[source]({source_address(path, node.lineno, node.end_lineno)})", *dict.fromkeys(own)],
    }


def _is_public(node: Function | ast.ClassDef) -> bool:
    is_overload = any(ast.unparse(mark) == "overload" for mark in node.decorator_list)
    return node.name == "__call__" or not (node.name.startswith("_") or is_overload)


def declaration(node: Any, lines: list[str]) -> str:
    """How a function or a class is declared, as it is written; of a class also how it is made, or its fields."""
    shown = _head(node, lines)
    parts = node.body if isinstance(node, ast.ClassDef) else []
    makers = [part for part in parts if isinstance(part, Function) and part.name == "__init__"]
    for part in makers:
        shown += _head(part, lines)
    for field in [] if makers else [part for part in parts if isinstance(part, ast.AnnAssign)]:
        shown += lines[field.lineno - 1 : field.end_lineno]
    return dedent("\n".join(shown))


def _head(node: Any, lines: list[str]) -> list[str]:
    """The lines of a declaration, from its decorators to its body."""
    first, body = _first_line(node), _first_line(node.body[0])
    begins_its_line = not lines[body - 1][: node.body[0].col_offset].strip()
    return lines[first - 1 : body - begins_its_line]


def _first_line(node: Any) -> int:
    return min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))


def _commands() -> dict[str, str]:
    """What `sepriors COMMAND --help` prints, command by command."""
    (actions,) = [action for action in parser(*COMMANDS)._actions if isinstance(action, _SubParsersAction)]
    return {name: command.format_help().rstrip() for name, command in actions.choices.items()}
