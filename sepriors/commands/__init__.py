"""What the commands share: the audio in folders, where results go, who works; a module a command, those of `lab` there.

A command is a module with `options(c)`, which adds them to its parser, and `run(a)`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sepriors.lab.jobs import WorkerPool

LOSSLESS = (".wav", ".flac", ".aiff", ".aif", ".w64", ".caf", ".wave", ".rf64", ".aifc", ".au", ".snd")
SUFFIXES = (*LOSSLESS, ".sph", ".ogg", ".oga", ".opus", ".mp3", ".mp2")  # what is taken from a folder
FOREIGN = (".m4a", ".mp4", ".aac", ".wma", ".amr", ".ape", ".wv", ".webm", ".mka", ".spx", ".ac3")


def say(text: str) -> None:
    """Tell the user something that is no result."""
    print(text, file=sys.stderr)


def names(text: str) -> list[str]:
    """The names in a list with commas; ValueError where there is none."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ValueError(f"expected names with commas between them, got {text!r}")
    return found


def device_name(name: str, dask: str | None) -> str:
    """The device by its own name; where it is that of another machine, nothing can be said about it here."""
    import torch

    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there and not dask else "cpu"
    found = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", name)
    if not found:
        raise ValueError(f"unknown device {name!r}; expected cpu, cuda or auto")
    count = 1 if found[1] == "cpu" else torch.cuda.device_count() if there else 0
    if not dask and int(found[2] or 0) >= count:
        seen = f"{count or 'no'} {found[1].upper()} device{'s' * (count > 1)}"
        raise ValueError(f"device {name}: torch sees {seen} here; use --device cpu")
    return name


# ------------------------------------------------------------------------- options


def recursive_option(c: argparse.ArgumentParser) -> None:
    c.add_argument("--recursive", action="store_true", help="take what is in the folders of folders, too")


def out_options(
    c: argparse.ArgumentParser, default: Path | None = None, about: str = "folder for the results"
) -> argparse._MutuallyExclusiveGroup:
    """Where results go; returns the group of options that say what becomes of files that are there already."""
    about += " (default: the cards of the package)" if default else ""
    c.add_argument("-o", "--out", type=Path, required=default is None, default=default, metavar="DIR", help=about)
    existing = c.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite files that are there already")
    return existing


def worker_options(c: argparse.ArgumentParser, default: str) -> None:
    auto = "auto: cuda where there is one, but on a Dask cluster cpu (default)"
    c.add_argument("--device", default="auto", help=f"cpu, cuda, or {auto}")
    who = c.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, metavar="N", help=f"processes that share the cores (default: {default})")
    who.add_argument("--dask", metavar="ADDRESS", help="work on this Dask cluster, tcp://HOST:PORT")


def worker_pool(a: argparse.Namespace, device: str, default: int) -> AbstractContextManager[WorkerPool]:
    """Who does the work of a command; on a GPU one process, unless more are asked for."""
    from sepriors.lab import jobs  # the part of the lab that needs no extra

    workers = default if device == "cpu" else 1
    return jobs.worker_pool(workers if a.workers is None else a.workers, a.dask)


# --------------------------------------------------------------------------- files


class Found(NamedTuple):
    """An audio file, and its name in the folder that was given, by which its results are filed."""

    path: Path
    name: Path


def names_a_file(out: Path) -> bool:
    """Whether the place for results looks like a file of audio rather than a folder."""
    return out.suffix.lower() in (*SUFFIXES, *FOREIGN) and not out.is_dir()


def require_free(paths: Sequence[Path], force: bool) -> None:
    """Refuse, before any work is done, to write over what is there."""
    for path in paths:
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already; use --force to overwrite it")
    for folder in {p.parent for p in paths}:
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder}: expected a folder for the results, got a file")


def same_file(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def audio_files(paths: Sequence[Path], recursive: bool, out: Path | None = None) -> list[Found]:
    """The files, and the audio files in the folders except `out`, in order; no two of one name.

    What is left out of a folder is told.
    """
    found: list[Found] = []
    for path in paths:
        if not path.is_dir():
            found.append(Found(path, Path(path.name)))
            continue
        inside = list(_inside(path, recursive, out))
        taken = [f for f in inside if f.name.suffix.lower() in SUFFIXES and not f.path.is_dir()]
        left = _left_out(f for f in inside if f not in set(taken))
        if not taken:
            also = f"; left out {left}" if left else ""
            raise ValueError(f"{path}: expected audio files ({' '.join(SUFFIXES)}) in this folder, got none{also}")
        if left:
            say(f"{path}: left out {left}")
        found += taken
    twice = [name for name, count in Counter(f.name.with_suffix("") for f in found).items() if count > 1]
    if twice:
        raise ValueError(f"several inputs are named '{twice[0]}'; results are filed by name, so give one at a time")
    return found


def _inside(folder: Path, recursive: bool, out: Path | None) -> Iterator[Found]:
    """What is in a folder, and folders where they are not entered. Hidden files are no audio: a Mac adds '._x.wav'."""
    for root, folders, files in os.walk(folder, onerror=_raise):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (out and same_file(here / f, out)))
        shown = sorted(name for name in [*files, *([] if recursive else folders)] if not name.startswith("."))
        yield from (Found(here / name, (here / name).relative_to(folder)) for name in shown)
        if not recursive:
            return


def _raise(error: OSError) -> None:
    raise error


def _left_out(files: Iterable[Found]) -> str:
    """The files of a folder that are not taken, kind by kind, and why."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for path, name in files:
        suffix = name.suffix.lower()
        if path.is_dir():
            kinds["in a folder of its own, --recursive takes that"].append(f"{name}{os.sep}")
        elif suffix in FOREIGN:
            kinds[f"libsndfile reads no {suffix}"].append(str(name))
        else:
            kinds[f"{suffix or 'no suffix'} is not taken for audio"].append(str(name))
    some = {why: first + (f" and {len(more)} more" if more else "") for why, (first, *more) in kinds.items()}
    return ", ".join(f"{which} ({why})" for why, which in some.items())
