"""Who imports whom: no circles, the core never the laboratory, and the picture of ARCHITECTURE.md is the code's."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import sepriors

PACKAGE = Path(sepriors.__file__).parent
PICTURE = (PACKAGE.parent / "ARCHITECTURE.md").read_text("utf-8")
FACE = {"sepriors", "sepriors.lab"}  # they import what others ask them for
COMMAND = ("sepriors.__main__", "sepriors.commands")  # they import what a user asks for, and the version from the face


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def imported(source, modules=frozenset(SOURCES)):
    """The modules of the package that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return found & modules


ARROWS = {module: imported(source) - {module} for module, source in SOURCES.items()}


def room(module):
    """The room of the picture that a module is in: a folder, or a file that stands by itself."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[0] == "lab" else 1])


def rooms():
    inside = {m for m in SOURCES if m not in FACE}
    arrows = {room(m): set() for m in inside}
    for m in inside:
        arrows[room(m)] |= {room(to) for to in ARROWS[m] & inside} - {room(m)}
    return arrows


def floors(arrows):
    """The rooms, floor by floor: each stands on the highest that it imports from."""
    floor = {}
    for name in TopologicalSorter(arrows).static_order():
        floor[name] = 1 + max((floor[to] for to in arrows[name]), default=-1)
    return [sorted(n for n in floor if floor[n] == i) for i in range(1 + max(floor.values()))]


def drawing(arrows):
    return "\n".join(f"{i:2}  " + "  ".join(names) for i, names in reversed(list(enumerate(floors(arrows)))))


def test_no_module_imports_in_a_circle():
    inside = {m: {to for to in arrows if to not in FACE} for m, arrows in ARROWS.items() if m not in FACE}
    TopologicalSorter(inside).prepare()
    TopologicalSorter(rooms()).prepare()


def test_the_core_never_imports_the_laboratory():
    core = [m for m in SOURCES if not m.startswith(("sepriors.lab", *COMMAND))]
    assert {m: to for m in core for to in ARROWS[m] if to.startswith("sepriors.lab")} == {}


def test_nothing_but_the_command_imports_the_face():
    assert {m for m, arrows in ARROWS.items() if arrows & FACE and m not in FACE and not m.startswith(COMMAND)} == set()


def test_inference_and_priors_do_not_know_each_other():
    arrows = rooms()
    assert "priors" not in arrows["inference"]
    assert "inference" not in arrows["priors"]
    assert arrows["signal"] <= {"files"}


def test_the_picture_is_that_of_the_imports():
    (found,) = re.findall(r"```text layers\n(.*?)\n```", PICTURE, re.DOTALL)
    assert found == drawing(rooms()), f"expected this picture in ARCHITECTURE.md:\n{drawing(rooms())}"
