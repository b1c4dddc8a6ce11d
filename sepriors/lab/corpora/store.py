"""Recordings that are decoded once: 16-bit samples end to end in the cache, mapped into memory from then on.

Opus takes a minute an hour of audio to decode, and a training draws from hours of it.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from tqdm import tqdm

from sepriors.files import scratch_folder

FULL_SCALE = 2**15


def cache_dir() -> Path:
    """Where downloads and decoded recordings go: $SEPRIORS_CACHE, else the system's cache folder for sepriors."""
    return Path(os.environ.get("SEPRIORS_CACHE") or platformdirs.user_cache_dir("sepriors")).expanduser().absolute()


@dataclass(frozen=True)
class Decoded:
    """Recordings as 16-bit samples; the i-th is a float32 tensor (N,), full scale 1, made when it is asked for.

    >>> recordings = Decoded([np.array([0, 16384, -32768], dtype=np.int16)])
    >>> recordings[0], recordings.lengths
    (tensor([ 0.0000,  0.5000, -1.0000]), [3])
    """

    samples: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(self.part, range(len(self)))

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.part(i)

    def part(self, i: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Samples start to stop of the i-th recording; what is not asked for is not read."""
        return torch.from_numpy(self.samples[i][start:stop].astype(np.float32) / FULL_SCALE)

    @property
    def lengths(self) -> list[int]:
        """Samples of each."""
        return [len(x) for x in self.samples]


def decode(root: Path, paths: Iterable[str], read: Callable[[str], torch.Tensor], *, progress: bool = False) -> Decoded:
    """The recordings root/path in the order given, each read once by `read` and kept in the cache for the next time.

    Where the cache cannot be written to, or its disk is full, they stay in memory, and a warning says so.
    """
    paths = list(paths)
    order = sorted(set(paths))
    home = cache_dir() / "decoded" / _digest(root, order)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_suffix(".lock")):  # trainings side by side: one decodes, the others wait for it
            if not home.is_dir():
                _keep(home, [_integers(read(path)) for path in tqdm(order, desc="decoding", disable=not progress)])
        kept = _kept(home)
    except OSError as error:
        warnings.warn(
            f"{home}: {error.strerror or error}; the decoded recordings stay in memory, and the next run decodes again",
            stacklevel=2,
        )
        kept = [_integers(read(path)) for path in order]
    found = dict(zip(order, kept, strict=True))
    return Decoded([found[path] for path in paths])


def _digest(root: Path, paths: Iterable[str]) -> str:
    """A name for these files as they are now: another content has another size or another time."""
    known = hashlib.sha256()
    for path in paths:
        about = os.stat(root / path)
        known.update(f"{root.absolute() / path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return known.hexdigest()[:24]


def _keep(home: Path, recordings: list[np.ndarray]) -> None:
    """Write the samples end to end, and where each recording ends; the folder appears whole or not at all."""
    with scratch_folder(home.parent, home.name) as stage:
        np.save(stage / "samples.npy", np.concatenate([np.zeros(0, np.int16), *recordings]))
        np.save(stage / "ends.npy", np.cumsum([len(x) for x in recordings], dtype=np.int64))
        stage.rename(home)


def _kept(home: Path) -> list[np.ndarray]:
    samples = np.load(home / "samples.npy", mmap_mode="r")
    ends = np.load(home / "ends.npy").tolist()
    return [samples[start:stop] for start, stop in pairwise([0, *ends])]


def _integers(x: torch.Tensor) -> np.ndarray:
    return (x * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16).numpy()
