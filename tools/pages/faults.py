"""The book's page of faults: what the tests do to the package, and what comes out, read from their marks.

A test says it by `@pytest.mark.fault("what is done", "what comes out")`: a fault on the page is a fault in the tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MARK = "pytest.mark.fault"


class Fault(NamedTuple):
    """What a test does, what comes out, and which test it is: its file's name, its own, and its line."""

    done: str
    outcome: str
    file: str
    test: str
    line: int


def read(folder: Path) -> list[Fault]:
    """The faults that the tests of a folder are marked with, file by file, in the order they stand there.

    ValueError for a mark that has not two texts, or those of another.
    """
    found: list[Fault] = []
    for path in sorted(folder.glob("test_*.py")):
        found += _marked(path)
    known: dict[tuple[str, str], Fault] = {}
    for fault in found:
        first = known.setdefault(fault[:2], fault)
        if first is not fault:
            raise ValueError(f"{fault.file}: expected a fault of its own on {fault.test}, got that of {first.test}")
    return found


def _marked(path: Path) -> Iterator[Fault]:
    module = ast.parse(path.read_text("utf-8"), path.name)
    names = {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    for test in tests:
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == MARK:
                texts = [_text(argument, names) for argument in mark.args]
                if len(texts) != 2 or mark.keywords or not all(texts):
                    raise ValueError(
                        f"{path.name}, line {mark.lineno}: expected what is done and what comes out as two texts, "
                        f"got {ast.unparse(mark)}"
                    )
                yield Fault(texts[0], texts[1], path.name, test.name, test.lineno)


def _text(node: ast.expr, names: Mapping[str, str]) -> str:
    """The text that stands there, or the module's text of that name; else nothing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def page(faults: list[Fault], repository: str) -> str:
    """The page in MyST Markdown."""
    lines = [
        "# Faults tried",
        "",
        f"What was done to the package to break it, and what came out: {len(faults)} faults. Each is a test, and this",
        "page is written from the marks of those tests: a fault that stands here is tried whenever they run.",
        "",
        "````{list-table}",
        ":header-rows: 1",
        ":widths: 40 40 20",
        "",
        "* - What is done\n  - What comes out\n  - Test",
        *(_row(fault, repository) for fault in faults),
        "````",
        "",
    ]
    return "\n".join(lines)


def _row(fault: Fault, repository: str) -> str:
    where = f"{repository}/blob/main/tests/{fault.file}#L{fault.line}"
    shown = fault.test.removeprefix("test_").replace("_", " ")
    return f"* - {fault.done}\n  - {fault.outcome}\n  - [{shown}]({where})"
