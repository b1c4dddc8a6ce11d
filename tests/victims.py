"""What the tests of hardening run in processes of their own, to kill them or to leave them without room on the disk."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import test_fitting
from tqdm import tqdm

from sepriors.__main__ import main
from sepriors.lab import recipes
from sepriors.lab.training import fitting
from sepriors.signal import audio

FETCH: Any = importlib.import_module("sepriors.lab.corpora.fetch")
FRESH = multiprocessing.get_context("forkserver")
WHOLE = inspect.unwrap(audio.atomic_write).__code__


class Ended(NamedTuple):
    """A process that has ended: its status (below 0 the signal that killed it), and what it wrote."""

    status: int
    out: str = ""
    err: str = ""


def run(victim: Callable[..., None], *arguments: Any) -> Ended:
    """Run victim(connection, *arguments) in a process of its own, to its end."""
    receiver, sender = FRESH.Pipe(duplex=False)
    process = FRESH.Process(target=victim, args=(sender, *arguments))
    process.start()
    sender.close()
    try:
        said = receiver.recv()
    except EOFError:  # killed
        said = ()
    process.join()
    return Ended(process.exitcode, *said)


def die_at_line(line: int) -> None:
    """Kill this process by SIGKILL before the so many-th line of `fitting` and `atomic_write` that it comes to."""
    fit = inspect.unwrap(fitting.fit)
    watched, left = {fit.__code__, fitting._save.__code__, fitting._resume.__code__, WHOLE}, line

    def at(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return at

    sys.settrace(lambda frame, event, argument: at if frame.f_code in watched else None)


def die_at_byte(size: int) -> None:
    """Have the system kill this process in the write that would make a file larger than that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def no_room_after(size: int) -> None:
    """Have the system refuse to let any file of this process grow beyond that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fit(_: Connection, when: int, checkpoint: Path) -> None:
    """The small run of test_fitting, killed in the write of that byte."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process would leave
    die_at_byte(when)
    test_fitting.run(checkpoint)


def command(
    sender: Connection, arguments: Sequence[str], fault: Callable[[int], None] | None = None, when: int = 0,
    registry: Path | None = None,
) -> None:  # fmt: skip
    """The `sepriors` command with recipes of seconds; with another registry, whose corpora go beside it."""
    tqdm.set_lock(threading.RLock())
    recipes.RECIPES = {name: made.smoke() for name, made in recipes.RECIPES.items()}
    if registry is not None:
        known = FETCH.registry(registry)
        FETCH.registry = lambda path=None: known
        os.environ["SEPRIORS_CACHE"] = str(registry.parent / "cache")  # this process has what the first of them found
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if fault is not None:
            fault(when)
        status = main(arguments)
    sender.send((out.getvalue(), err.getvalue()))
    sys.exit(status)


def download(_: Connection, when: int, archive: dict[str, Any], folder: Path) -> None:
    tqdm.set_lock(threading.RLock())
    die_at_byte(when)
    FETCH.download(archive, folder)
