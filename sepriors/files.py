"""Files that are written whole or not at all."""

import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of `path`, moved there when the block ends: neither a full disk, an error nor a crash
    leaves half a file, or harms one that was there. Makes the folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _new(path)
    try:
        yield part
        part.replace(path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # one line that names the file
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def scratch_folder(folder: Path, name: str, *, clear: bool = True) -> Iterator[Path]:
    """A folder NAME~... to work in beside the final one, gone at the end whatever happens.

    With `clear` those that killed runs have left go, too; no other process may be at the same work then.
    """
    for left in folder.glob(f"{glob.escape(name)}~*") if clear else ():
        shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}~"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_partial(path: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote `path` have left of it; no other may be writing it."""
    path = Path(path)
    for part in path.parent.glob(f"{glob.escape(_part(path))}*{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


def _part(path: Path) -> str:
    """How the names begin of the files that are written in place of `path`; short, since 255 bytes are the most."""
    return f".part-{path.stem[:32]}~"


def _new(path: Path) -> Path:
    """A new file to write in place of `path`, with the rights of any new file: the system knows its mask, and to ask
    for it would change it for a moment, for all threads.
    """
    while True:
        part = path.with_name(f"{_part(path)}{secrets.token_hex(4)}{path.suffix}")
        with suppress(FileExistsError):  # then another name
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return part
