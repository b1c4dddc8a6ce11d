"""`sepriors enhance`: every file is looked at before the first is written, and comes out as it came in, enhanced."""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sepriors import commands, methods, metrics, running
from sepriors.commands import Found, say
from sepriors.lab import jobs  # it and `peers` need no extra
from sepriors.lab.peers import PEERS
from sepriors.running import RATE
from sepriors.signal import audio

BATCH_SECONDS = 64.0  # of all channels that are read at once; a longer file comes alone


class Recordings(NamedTuple):
    """Files of one sample rate, their samples (channels, N) as arrays: tensors would need a shared-memory file each."""

    paths: Sequence[Path]
    samples: list[np.ndarray]
    rate: int


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="audio files, or folders of them")
    commands.recursive_option(c)
    c.add_argument("--method", required=True, metavar="NAME", help=f"one of {', '.join(methods.METHODS)}")
    c.add_argument("--seed", type=int, default=0)
    commands.worker_options(c, f"all cores for more than {jobs.BATCH} files, else 1, which takes files together")
    about = "folder for the results, or for one input the name of a file"
    resume = "take the files that are there, and whole, for done, and make the others"
    commands.out_options(c, about=about).add_argument("--resume", action="store_true", help=resume)


def run(a: argparse.Namespace) -> None:
    if a.method in PEERS:
        raise ValueError(
            f"{a.method} is a package of others, which the chapters compare with (sepriors.lab.peers); expected one of "
            f"the methods here: {', '.join(methods.METHODS)}"
        )
    method = methods.make(a.method)
    device = commands.device_name(a.device, a.dask)
    targets = _targets(commands.audio_files(a.inputs, a.recursive, a.out), a.out)
    commands.require_free(list(targets.values()), a.force or a.resume)
    by_rate: dict[int, list[tuple[Path, float]]] = defaultdict(list)
    for path, target in targets.items():
        x, rate = audio.read(path)
        if not (a.resume and _done(path, target, x, rate)):
            _warn(path, x, rate)
            by_rate[rate].append((path, x.numel() / min(rate, RATE)))
    left = sum(map(len, by_rate.values()))
    if a.resume:
        say(f"{a.out}: {len(targets) - left} of {len(targets)} files are there already")
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    default = metrics.workers() if left > jobs.BATCH else 1
    with commands.worker_pool(a, device, default) as pool, tqdm(total=left, unit="file", disable=None) as bar:
        alone = pool.executor is None
        work = partial(enhanced, method=method if alone else a.method, seed=a.seed, device=device)
        for batch, speech in jobs.as_completed(pool, work, _recordings(by_rate, jobs.BATCH if alone else 1)):
            for path, estimate in zip(batch.paths, speech, strict=True):
                _write_like(path, targets[path], torch.from_numpy(estimate), batch.rate, a.force or a.resume)
                bar.update()


def enhanced(files: Recordings, method: methods.Method | str, seed: int, device: str) -> list[np.ndarray]:
    """The speech in each file, with its channels, its length and its rate; a method that has a name is made here."""
    made = jobs.cached_method(method) if isinstance(method, str) else method
    noisy = [torch.from_numpy(channel).to(device) for x in files.samples for channel in x]
    each = iter(running.enhance(noisy, made, seed, sample_rate=files.rate))
    return [torch.stack([next(each) for _ in x]).cpu().numpy() for x in files.samples]


def _targets(files: Sequence[Found], out: Path) -> dict[Path, Path]:
    """Where the result of each file goes: below a folder, by its name, or for one file to the file that is named."""
    if not commands.names_a_file(out):
        lossy = [path for path, name in files if name.suffix.lower() not in commands.LOSSLESS]
        return {path: out / (name.with_suffix(".wav") if path in lossy else name) for path, name in files}
    if len(files) > 1:
        raise ValueError(f"{out}: expected a folder for {len(files)} results, got the name of a file")
    if out.suffix.lower() not in commands.LOSSLESS:
        kept = " ".join(commands.LOSSLESS)
        raise ValueError(f"{out}: expected a file that keeps length and level ({kept}), got {out.suffix}")
    return {files[0].path: out}


def _done(path: Path, target: Path, x: torch.Tensor, rate: int) -> bool:
    """Whether a result is there and whole; what is there and is not so is told of, and made again."""
    if not target.exists():
        return False
    if commands.same_file(path, target):
        expected = "expected another folder for the results"
        raise FileExistsError(f"{target} exists already and is the input itself; {expected}")
    try:
        made, made_rate = audio.read(target)
    except audio.AudioError as error:
        say(f"{error}; made again")
        return False
    if (made.shape, made_rate) == (x.shape, rate):
        return True
    there = f"{tuple(x.shape)} samples at {rate} Hz, got {tuple(made.shape)} at {made_rate}"
    say(f"{target}: expected {there}; made again")
    return False


def _recordings(by_rate: Mapping[int, Sequence[tuple[Path, float]]], most: int) -> Iterator[Recordings]:
    """The files, with the seconds of each, so many of one rate at a time, each time when they are asked for."""
    for rate, group in by_rate.items():
        for paths in _batches(group, most):
            yield Recordings(paths, [audio.read(path)[0].numpy() for path in paths], rate)


def _batches(group: Sequence[tuple[Path, float]], most: int) -> Iterator[list[Path]]:
    """So many files at most, and no more than BATCH_SECONDS, unless one alone is longer."""
    batch: list[Path] = []
    total = 0.0
    for path, seconds in group:
        if batch and (len(batch) == most or total + seconds > BATCH_SECONDS):
            yield batch
            batch, total = [], 0.0
        batch.append(path)
        total += seconds
    if batch:
        yield batch


def _warn(path: Path, x: torch.Tensor, rate: int) -> None:
    """What a user should know of an input that is not refused."""
    if not x.any():
        say(f"{path}: silent, stays silent")
    elif x.abs().max() <= 1 and (clipped := (x.abs() >= 0.9999).float().mean()) > 1e-3:  # floats go on beyond 1
        say(f"{path}: clipped in {100 * clipped:.1f} % of its samples; no method here mends that")
    offsets = audio.dc_offset(x.double(), rate)
    if offsets.any():
        offset = float(offsets[offsets.abs().argmax()])
        say(f"{path}: DC offset of {offset:.2g}, removed for the method and put back")
    if rate > RATE:
        say(f"{path}: {rate} Hz is enhanced at {RATE} Hz, so nothing above {RATE // 2000} kHz remains")


def _write_like(source: Path, target: Path, x: torch.Tensor, rate: int, force: bool) -> None:
    """Write with the sample format of the source; an estimate beyond full scale is lowered, and that is said."""
    subtype = audio.subtype_like(source, target)
    peak = float(x.abs().max())
    if peak > 1 and subtype.startswith("PCM"):
        say(f"{target}: lowered by {20 * torch.tensor(peak).log10():.1f} dB so that it does not clip")
        x = x / peak
    audio.write(target, x, rate, subtype=subtype, overwrite=force)
