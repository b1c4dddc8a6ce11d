"""`sepriors score`: every pair is looked at before the first is measured, at the files' own rates."""

import argparse
import os
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from sepriors import metrics
from sepriors.commands import SUFFIXES, Found, audio_files, names, recursive_option, require_free, say
from sepriors.files import atomic_write
from sepriors.running import RATE
from sepriors.signal import audio


def options(c: argparse.ArgumentParser) -> None:
    about = "audio files of one channel, or folders of them"
    c.add_argument("estimates", nargs="+", type=Path, metavar="ESTIMATE", help=about)
    recursive_option(c)
    c.add_argument("--clean", type=Path, help="the clean file, or a folder with files of the same names")
    about = "resample what is faster to this rate first (default: as the files are)"
    c.add_argument("--rate", type=int, metavar="HZ", help=about)
    about = f"comma-separated, of {', '.join(metrics.METRICS)} (default: all that the input allows)"
    c.add_argument("--metrics", help=about)
    c.add_argument("-o", "--out", type=Path, help="also write a table, .csv")
    c.add_argument("--force", action="store_true", help="overwrite the table")


def run(a: argparse.Namespace) -> None:
    default = metrics.METRICS if a.clean else metrics.CLEAN_FREE
    chosen = metrics.check_names(names(a.metrics) if a.metrics is not None else default)
    files = audio_files(a.estimates, a.recursive)
    if a.out:
        require_free([a.out], a.force)
    by_rate: dict[int, list[tuple[Found, Path | None]]] = defaultdict(list)
    for file in files:
        clean = _clean_of(file, a.clean)
        by_rate[_pair(file.path, clean, a.rate)[2]].append((file, clean))
    scores: dict[Found, metrics.Scores] = {}
    together = metrics.pool() if len(files) > 1 else nullcontext()
    with together as executor, tqdm(total=len(files), unit="file", disable=None) as bar:
        for rate, group in by_rate.items():
            pairs = (_pair(file.path, clean, a.rate)[:2] for file, clean in group)
            for (file, _), measured in zip(group, metrics.score_many(pairs, rate, chosen, executor), strict=True):
                scores[file] = measured
                bar.update()
    rows = [scores[file] for file in files]
    index = pd.Index([_plain(file.name) for file in files], name="file")
    table = pd.DataFrame([s.values for s in rows], index=index)
    if a.out:
        with atomic_write(a.out) as part:
            table.to_csv(part)
    print(table.round(3).to_string())
    for name in chosen:
        missing = [s.reasons[name] for s in rows if name in s.reasons]
        if missing:
            say(f"{name}: {len(rows) - len(missing)} of {len(rows)} files measured; {missing[0]}")
    if a.rate is None and max(by_rate) > RATE:
        say(f"measured at the files' own rates, up to {max(by_rate)} Hz; --rate {RATE} measures what lies below 8 kHz")
    if len(rows) > 1:
        print("mean", *(f"{name}={table[name].mean():.3f}" for name in chosen))


def _plain(name: Path) -> str:
    """A name for a table, also where it is not UTF-8."""
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def _clean_of(file: Found, clean: Path | None) -> Path | None:
    """The clean file of an estimate: the one given, or in a folder that of the same name, else the one of its stem."""
    if clean is None or not clean.is_dir():
        return clean
    exact = clean / file.name
    if exact.is_file() or not exact.parent.is_dir():
        return exact
    near = [p for p in exact.parent.iterdir() if p.stem == exact.stem and p.suffix.lower() in SUFFIXES]
    if len(near) > 1:
        found = ", ".join(sorted(p.name for p in near))
        raise ValueError(f"{file.path}: expected one clean file of its name in {exact.parent}, got {found}")
    return near[0] if near else exact


def _pair(path: Path, clean: Path | None, rate: int | None) -> tuple[torch.Tensor | None, torch.Tensor, int]:
    """Clean speech (N,), if there is any, an estimate (N,), and their rate; at `rate` if that is given."""
    estimate, at = _one_channel(path, rate)
    if clean is None:
        return None, estimate, at
    reference, other = _one_channel(clean, rate)
    if other != at:
        lower = min(at, other)
        raise ValueError(f"{path}: has {at} Hz but {clean} has {other} Hz; --rate {lower} resamples both")
    if len(reference) != len(estimate):
        lengths = f"{len(estimate)} samples at {at / 1000:g} kHz but {clean} has {len(reference)}"
        raise ValueError(f"{path}: has {lengths}; cut them to one length")
    return reference, estimate, at


def _one_channel(path: Path, rate: int | None) -> tuple[torch.Tensor, int]:
    """Samples (N,) and their rate. Raises ValueError for several channels: a mean of them is none of them."""
    x, at = audio.read(path)
    if len(x) > 1:
        raise ValueError(f"{path}: expected one channel to measure, got {len(x)}; write each to a file of its own")
    if rate is None:
        return x[0], at
    if not audio.RATES[0] <= rate <= at:  # upwards there would be nothing in the upper bands
        raise ValueError(f"--rate {rate}: expected {audio.RATES[0]} Hz to the {at} Hz of {path}")
    return audio.resample(x[0], at, rate), rate
