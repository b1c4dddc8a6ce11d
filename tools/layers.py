"""The picture of layers: which room of the package imports from which, as a Mermaid graph that GitHub draws.

    python -m tools.layers

A room is a folder of the package, or a module of its top folder; `sepriors` itself is its face, the top `__init__`.
It is read from the sources, imports inside functions included.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools import ROOT

PACKAGE = ROOT / "sepriors"


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """The rooms that each room imports from.

    >>> "signal" in graph()["inference"], "lab" in graph()["inference"]
    (True, False)
    """
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = room_of(path.relative_to(package.parent).with_suffix("").parts, package)
        found.setdefault(room, set()).update(room_of(name, package) for name in imported(path, package))
    return {room: near - {room} for room, near in found.items()}


def imported(path: Path, package: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports from the package, as parts of its dotted name; of `from a import b`, (a, b)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            level, module = (node.level, node.module) if isinstance(node, ast.ImportFrom) else (0, None)
            above = path.relative_to(package.parent).parts[:-level] if level else ()
            names = [(*above, *f"{module or ''}.{alias.name}".strip(".").split(".")) for alias in node.names]
            yield from (name for name in names if name[0] == package.name)


def room_of(parts: tuple[str, ...], package: Path) -> str:
    """The room that a dotted name is in.

    >>> [room_of(("sepriors", *name.split(".")), PACKAGE) for name in ("signal.nmf.fit", "weights.load", "METHODS")]
    ['signal', 'weights', 'sepriors']
    """
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    inside = parts[1:2] if parts[1:2] and parts[1] in modules else parts[1:]
    while inside and inside[0] not in modules and not package.joinpath(*inside).is_dir():
        inside = inside[:-1]
    return ".".join(inside) or package.name


def picture(arrows: Mapping[str, set[str]]) -> str:
    """The graph in Mermaid, without the arrows that a longer way already says.

    >>> print(picture({"a": {"b", "c"}, "b": {"c"}, "c": set()}))
    graph TD
      a --> b
      b --> c
    """
    reached = {room: below(room, arrows) for room in arrows}
    lines = ["graph TD"]
    for room, near in arrows.items():
        longer = set().union(*(reached[other] for other in near if room not in reached[other]))
        lines += [f"  {room} --> {other}" for other in sorted(near - longer)]
    return "\n".join(lines)


def below(room: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """All rooms that a room comes to by arrows; itself only if it is in a circle."""
    found: set[str] = set()
    new = arrows[room]
    while new:
        found |= new
        new = set().union(*(arrows[other] for other in new)) - found
    return found


if __name__ == "__main__":
    print(picture(graph()))
