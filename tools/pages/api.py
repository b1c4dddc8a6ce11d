"""The API reference: signatures and docstrings of the package's modules, a page a level of ARCHITECTURE.md.

It reads the sources rather than the objects: a signature stands as it is written, and so do the fields of a class with
the comments beside them. Docstrings are Markdown with formulas, which MyST shows as they are.
"""

from __future__ import annotations

import ast
import re
from argparse import _SubParsersAction
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain, groupby
from pathlib import Path

from sepriors.__main__ import COMMANDS, parser
from tools import ROOT
from tools.pages.equations import labelled, read_map
from tools.pages.text import source_address

PACKAGE = ROOT / "sepriors"
ROW = re.compile(r"^\| (\d+) \| ((?:`[\w/]+` ?)+)\|", re.MULTILINE)
LITERAL = re.compile(r"(`[^`]*`|\$\$.*?\$\$|\$[^$]*\$)", re.DOTALL)
MARKUP = re.compile(r"([*<\[]|_(?=_)|(?<=_)_|-(?=-))")
BROAD = 72  # characters of a signature that fit a line
Function = ast.FunctionDef | ast.AsyncFunctionDef


def levels() -> dict[int, list[Path]]:
    """The files of the package by the level that ARCHITECTURE.md gives their module.

    >>> [path.name for path in levels()[0]]
    ['rng.py', 'stft.py', 'precision.py', 'audio.py', 'gaussian.py']
    """
    found: dict[int, list[Path]] = defaultdict(list)
    for level, names in ROW.findall((ROOT / "ARCHITECTURE.md").read_text("utf-8")):
        for name in re.findall(r"`([\w/]+)`", names):
            path = PACKAGE / name.rstrip("/")
            found[int(level)] += sorted(path.glob("*.py")) if name.endswith("/") else [path.with_suffix(".py")]
    return dict(found)


def pages(source: Path = ROOT) -> dict[str, str]:
    """Name and MyST Markdown of each page: `api`, the index, and `api-LEVEL`."""
    computed = _computed(source)
    found = {f"api-{level}": _page(level, paths, computed) for level, paths in levels().items()}
    return {"api": _index(), **found}


def _index() -> str:
    rows = []
    for path in chain(*levels().values()):
        about = (ast.get_docstring(_tree(path)) or "").partition("\n")[0]
        rows.append(f"- [`{module(path)}`](api-{module(path)}): {prose(about)}")
    face = ast.get_docstring(_tree(PACKAGE / "__init__.py")) or ""
    return "\n".join(
        [
            "# API reference",
            "",
            prose(face),
            "",
            "## Modules",
            "",
            "A module imports only from modules above it. Every example in these pages is run by the tests.",
            "",
            *rows,
            "",
        ]
    )


def _page(level: int, paths: list[Path], computed: dict[str, list[str]]) -> str:
    names = dict.fromkeys(module(path).split(".")[1] for path in paths)
    parts = [f"# Level {level}: {prose(', '.join(names))}", ""]
    for path in paths:
        parts += [f"(api-{module(path)})=", f"## {prose(module(path))}", "", *_body(_tree(path), path, computed)]
    return "\n".join(parts) + "\n"


def module(path: Path) -> str:
    """The dotted name of a file of the package.

    >>> module(PACKAGE / "priors" / "vae.py"), module(PACKAGE / "priors" / "__init__.py")
    ('sepriors.priors.vae', 'sepriors.priors')
    """
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _computed(source: Path) -> dict[str, list[str]]:
    """The equations of the book by the name of what computes them."""
    found = defaultdict(list)
    known = read_map(source)
    for equation in labelled(source):
        for name in known.get(equation.label, {}).get("code", []):
            found[name].append(f"{{eq}}`{equation.label}` of [](/book/{equation.chapter}.ipynb)")
    return found


# ---- a module -------------------------------------------------------------------------------------------------------


def _body(tree: ast.Module, path: Path, computed: dict[str, list[str]]) -> list[str]:
    parts = [text(ast.get_docstring(tree)), ""]
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not (node.name.startswith("_") or _is_overload(node)):
            parts += _entry(node, path, computed)
    return parts + (_commands() if path.stem == "__main__" else [])


def _entry(node: Function | ast.ClassDef, path: Path, computed: dict[str, list[str]]) -> list[str]:
    name = f"{module(path)}.{node.name}"
    links = [f"[source]({source_address(path, node.lineno, node.end_lineno or node.lineno)})"]
    own = [label for known, labels in computed.items() if f"{known}.".startswith(f"{name}.") for label in labels]
    links += [f"equation {label}" for label in dict.fromkeys(own)]
    parts = [f"### {node.name}", "", *code(declaration(node, path))]
    parts += [text(ast.get_docstring(node)), ""]
    for method in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(method, Function) and _is_public(method):
            parts += [*code(declaration(method, path)), text(ast.get_docstring(method)), ""]
    return [*parts, "; ".join(links), ""]


def _is_overload(node: Function | ast.ClassDef) -> bool:
    return any(ast.unparse(mark) == "overload" for mark in node.decorator_list)


def _is_public(method: Function) -> bool:
    return bool(ast.get_docstring(method)) and (not method.name.startswith("_") or method.name == "__call__")


def declaration(node: Function | ast.ClassDef, path: Path) -> str:
    """How a function or a class is declared; of a class also its fields as they are written, or how it is made.

    >>> node = next(n for n in _tree(PACKAGE / "gaussian.py").body if isinstance(n, ast.FunctionDef))
    >>> declaration(node, PACKAGE / "gaussian.py").startswith("def is_divergence(")
    True
    """
    marks = [f"@{written(mark)}" for mark in node.decorator_list]
    if isinstance(node, Function):
        returns = f" -> {written(node.returns)}" if node.returns else ""
        return "\n".join([*marks, _call(f"def {node.name}", node.args, returns)])
    bases = ", ".join(map(written, node.bases))
    head = f"class {node.name}({bases})" if bases else f"class {node.name}"
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    makers = [part for part in node.body if isinstance(part, Function) and part.name == "__init__"]
    if makers:
        return "\n".join([*marks, head, _call(node.name, makers[0].args)])
    if not fields:
        return "\n".join([*marks, head])
    lines = path.read_text("utf-8").splitlines()
    shown = [line for field in fields for line in lines[field.lineno - 1 : field.end_lineno]]
    return "\n".join([*marks, f"{head}:", *shown])


def written(node: ast.AST) -> str:
    """An expression as the sources write it: with double quotes."""
    found = ast.unparse(node)
    return found if '"' in found else found.replace("'", '"')


def _call(name: str, arguments: ast.arguments, returns: str = "") -> str:
    """name(arguments) on one line, or an argument a line; without self and cls."""
    split = [part for part in _arguments(arguments) if part not in ("self", "cls")]
    line = f"{name}({', '.join(split)}){returns}"
    if len(line) <= BROAD:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in split), f"){returns}"])


def _arguments(arguments: ast.arguments) -> list[str]:
    """Each argument with its annotation and its default, as written."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    found = [_argument(one, default) for one, default in zip(plain, defaults, strict=True)]
    if arguments.posonlyargs:
        found.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        found.append("*" + written(arguments.vararg))
    elif arguments.kwonlyargs:
        found.append("*")
    found += [_argument(one, default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return found + (["**" + written(arguments.kwarg)] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return written(argument)
    equals = " = " if argument.annotation else "="
    return f"{written(argument)}{equals}{written(default)}"


def _commands() -> list[str]:
    """What `sepriors COMMAND --help` prints, command by command."""
    (actions,) = [action for action in parser(*COMMANDS)._actions if isinstance(action, _SubParsersAction)]
    parts = []
    for name, command in actions.choices.items():
        parts += [f"### sepriors {name}", "", "```text", command.format_help().rstrip(), "```", ""]
    return parts


# ---- docstrings -----------------------------------------------------------------------------------------------------


def code(content: str, language: str = "python") -> list[str]:
    """A fenced block."""
    return [f"```{language}", content, "```", ""]


def text(docstring: str | None) -> str:
    """A docstring in MyST: its examples fenced, its prose as it is written.

    >>> text("Rows (B, *shape) of `x[i]`.")
    'Rows (B, \\\\*shape) of `x[i]`.\\n'
    """
    parts = []
    for example, lines in groupby(_marked(docstring or ""), key=lambda pair: pair[0]):
        block = "\n".join(line for _, line in lines).strip("\n")
        parts.append("\n".join(code(block, "pycon")) if example else prose(block) + "\n")
    return "\n".join(parts).rstrip("\n") + "\n"


def _marked(docstring: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it belongs to an example: from `>>>` to the next blank line."""
    example = False
    for line in docstring.splitlines():
        example = line.startswith(">>>") or (example and bool(line))
        yield example, line


def prose(paragraph: str) -> str:
    """Text in which only code and formulas are markup.

    >>> prose("`--force` is [--force], $x_1$")
    '`--force` is \\\\[\\\\--force], $x_1$'
    """
    parts = LITERAL.split(paragraph)
    return "".join(part if i % 2 else MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))
