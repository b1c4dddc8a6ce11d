"""`sepriors mix`: speech and noise at an exact ratio, from two files or as a bench set."""

import argparse
import os
from pathlib import Path

import torch

from sepriors.commands import names_a_file, out_options, require_free, say
from sepriors.lab.commands import bench_options, made_set
from sepriors.lab.corpora import open_corpora
from sepriors.running import RATE
from sepriors.signal import audio, rng
from sepriors.signal.mixing import Mixture, form, mix

PARTS = ("noisy", "clean", "noise")


def options(c: argparse.ArgumentParser) -> None:
    c.add_argument("clean", nargs="?", type=Path, help="speech file")
    c.add_argument("noise", nargs="?", type=Path, help="noise file; cut, or repeated, to the length of the speech")
    c.add_argument("--snr", type=float, default=0.0, help="dB (default: 0)")
    bench_options(c)
    out_options(c)


def run(a: argparse.Namespace) -> None:
    if names_a_file(a.out):
        raise ValueError(f"{a.out}: expected a folder for the three files of a mixture, got the name of a file")
    if a.set and a.clean:
        raise ValueError("expected either two files or --set, got both")
    mixtures, rate = (_bench_set(a), RATE) if a.set else _of_files(a)
    suffix, subtype = form(list(mixtures.values()))
    targets = {name: [a.out / part / f"{name}{suffix}" for part in PARTS] for name in mixtures}
    require_free([path for paths in targets.values() for path in paths], a.force)
    for name, mixture in mixtures.items():
        for x, path in zip(mixture[:3], targets[name], strict=True):
            audio.write(path, x, rate, subtype=subtype, overwrite=a.force)
    print(f"{len(mixtures)} mixtures in {a.out}{os.sep}{{{','.join(PARTS)}}}")


def _bench_set(a: argparse.Namespace) -> dict[str, Mixture]:
    """The mixtures (N,) of a bench set by the names of their files."""
    return {
        f"{i:03d}_{m.snr_db:+g}dB": Mixture(m.noisy[i], m.clean[i], m.noise[i], m.snr_db, m.key[i : i + 1])
        for m in made_set(open_corpora(a.corpus), a)
        for i in range(a.files)
    }


def _of_files(a: argparse.Namespace) -> tuple[dict[str, Mixture], int]:
    """The mixture of two files, by its name, and the rate of the speech, which it has."""
    if not (a.clean and a.noise):
        raise ValueError("expected two files, CLEAN and NOISE, or --set NAME")
    (clean, rate), (noise, noise_rate) = audio.read(a.clean), audio.read(a.noise)
    for path, x in ((a.clean, clean), (a.noise, noise)):
        if len(x) > 1:
            say(f"{path}: {len(x)} channels, of which the mean is taken")
    clean, noise = clean.mean(0), audio.resample(noise.mean(0, keepdim=True), noise_rate, rate)[0]
    (generator,) = rng.generators(a.seed, 1)
    noise = noise.repeat(-(-len(clean) // len(noise)))
    start = int(torch.randint(len(noise) - len(clean) + 1, (), generator=generator))
    return {f"{a.clean.stem}_{a.snr:+g}dB": mix(clean, noise[start : start + len(clean)], a.snr)}, rate
