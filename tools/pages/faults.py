"""The book's page of faults: what the tests do to the package, and what comes out, read from their marks.

A test says it by `@pytest.mark.fault("what is done", "what comes out")`: a fault on the page is a fault in the tests.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.pages.text import render

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
    known: dict[tuple[str, str], Fault] = {}
    for fault in (fault for path in sorted(folder.glob("test_*.py")) for fault in _marked(path)):
        first = known.setdefault(fault[:2], fault)
        if first is not fault:
            raise ValueError(f"{fault.file}: expected a fault of its own on {fault.test}, got that of {first.test}")
    return list(known.values())


def _marked(path: Path) -> Iterator[Fault]:
    module = ast.parse(path.read_text("utf-8"), path.name)
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    names = {ast.unparse(target): node.value for node in assigned for target in node.targets}
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    for test in tests:
        for mark in test.decorator_list:
            if not (isinstance(mark, ast.Call) and ast.unparse(mark.func) == MARK):
                continue
            nodes = [names.get(ast.unparse(argument), argument) for argument in mark.args]  # or the text of that name
            texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            if len(nodes) != 2 or len(texts) != 2 or mark.keywords:
                raise ValueError(
                    f"{path.name}, line {mark.lineno}: expected what is done and what comes out as two texts, "
                    f"got {ast.unparse(mark)}"
                )
            yield Fault(texts[0], texts[1], path.name, test.name, test.lineno)


def page(faults: list[Fault], repository: str) -> str:
    """The page in MyST Markdown."""
    return render("faults.md.jinja", faults=faults, repository=repository)
