"""The `sepriors` command. Exit status: 0 done, 2 bad input (one clear line), 130 interrupted."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from . import (
    __version__,
    audio,
    bench,
    corpora,
    fitting,
    jobs,
    methods,
    metrics,
    mixing,
    plots,
    recipes,
    rng,
    train,
    weights,
)
from .corpora import sets

LOSSLESS = (".wav", ".flac", ".aiff", ".aif", ".w64", ".caf")
SUFFIXES = (*LOSSLESS, ".ogg", ".mp3", ".opus")
RATE = 16000  # Hz; the rate of every prior


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    a = parser().parse_args(arguments)
    try:
        a.run(a)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        _forget_unwritten()
    except (ValueError, OSError) as error:  # what a user can mend: bad input, a wrong name, a full disk
        _say(f"sepriors {a.command}: {' '.join(str(error).split())}")
        _forget_unwritten()
        return 2
    except KeyboardInterrupt:
        _say(f"sepriors {a.command}: interrupted")
        return 130
    return 0


def _forget_unwritten() -> None:
    """Write what has been printed, or let go of it: at exit Python would try again, and complain once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong; --help has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line, with its help."""
    top = Parser(prog="sepriors", description=__doc__)
    top.add_argument("--version", action="version", version=f"sepriors {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: object, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        made.set_defaults(run=run)
        return made

    command("methods", _methods, "list the methods, and the weights they need")

    c = command("corpora", _corpora, "show the speech and noise at hand")
    c.add_argument(
        "--corpus", default="auto", help="'auto', 'synthetic' or a folder with a manifest.csv (default: auto)"
    )

    c = command("fetch", _fetch, "download a corpus, or enter a folder that you own")
    c.add_argument(
        "name", help=f"one of {', '.join(corpora.registry())}; with --from also {', '.join(corpora.READERS)}"
    )
    c.add_argument(
        "--from", dest="folder", type=Path, help="a folder that holds the corpus already; its audio stays where it is"
    )

    c = command("mix", _mix, "mix speech and noise at an exact signal-to-noise ratio, or write a bench set")
    c.add_argument("clean", nargs="?", type=Path, help="speech file")
    c.add_argument("noise", nargs="?", type=Path, help="noise file; cut, or repeated, to the length of the speech")
    c.add_argument("--snr", type=float, default=0.0, help="dB (default: 0)")
    c.add_argument("--set", choices=sorted(sets.SNRS), help="write this bench set in place of two files")
    _bench_options(c)
    _out(c)

    c = command("enhance", _enhance, "enhance files; names, lengths and sample rates are kept")
    c.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="audio files, or folders of them")
    c.add_argument("--method", required=True, metavar="NAME", help=f"one of {', '.join(methods.METHODS)}")
    c.add_argument("--seed", type=int, default=0)
    _workers(c, f"all cores for more than {bench.BATCH} files, else 1, which takes files together")
    _out(c).add_argument(
        "--resume", action="store_true", help="take the files that are there for done, and go on with the others"
    )

    c = command("score", _score, "measure estimates against clean speech, or without it by DNSMOS alone")
    c.add_argument("estimates", nargs="+", type=Path, metavar="ESTIMATE", help="audio files, or folders of them")
    c.add_argument("--clean", type=Path, help="the clean file, or a folder with files of the same names")
    c.add_argument(
        "--metrics", help=f"comma-separated, of {', '.join(metrics.METRICS)} (default: all that the input allows)"
    )
    c.add_argument("-o", "--out", type=Path, help="also write a table, .csv")
    c.add_argument("--force", action="store_true", help="overwrite the table")

    c = command("bench", _bench, "run methods over a bench set and print the table")
    c.add_argument("--methods", default=",".join(methods.METHODS), help="comma-separated (default: all)")
    c.add_argument("--set", choices=sorted(sets.SNRS), default="real")
    c.add_argument(
        "--metrics",
        default="pesq_wb,stoi,estoi,si_sdr,fwsnrseg",
        help=f"comma-separated, of {', '.join(metrics.METRICS)}",
    )
    _bench_options(c)
    _workers(c, "all cores; on a GPU 1, which takes files together")
    about = (
        "also write the records, .json; while they are made they lie in FILE.parts, from where a second call goes on"
    )
    c.add_argument("-o", "--out", type=Path, metavar="FILE", help=about)
    c.add_argument("--force", action="store_true", help="overwrite the records")

    c = command("train", _train, "train the weights of a card again")
    c.add_argument("name", help=f"one of {', '.join(recipes.RECIPES)}")
    c.add_argument("--corpus", default="auto")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--devices", type=int, metavar="N", help="processes with a device each, on each node (default: 1)")
    c.add_argument("--nodes", type=int, metavar="N", help="machines, see the page on scale (default: 1)")
    c.add_argument("--accelerator", choices=["auto", "cpu", "cuda"], default="auto", help="what several devices are")
    _out(c, weights.folder())
    return top


def _out(c: argparse.ArgumentParser, default: Path | None = None) -> argparse._MutuallyExclusiveGroup:
    """Where results go; returns the group of options that say what becomes of files that are there already."""
    about = f"folder for the results{' (default: the cards of the package)' if default else ''}"
    c.add_argument("-o", "--out", type=Path, required=default is None, default=default, metavar="DIR", help=about)
    there = c.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="overwrite files that are there already")
    return there


def _workers(c: argparse.ArgumentParser, default: str) -> None:
    auto = "auto: cuda where there is one, but on a Dask cluster cpu (default)"
    c.add_argument("--device", default="auto", help=f"cpu, cuda, or {auto}")
    who = c.add_mutually_exclusive_group()
    who.add_argument("--workers", type=int, metavar="N", help=f"processes that share the cores (default: {default})")
    who.add_argument("--dask", metavar="ADDRESS", help="work on this Dask cluster, tcp://HOST:PORT")


def _crew(a: argparse.Namespace, device: str, default: int) -> AbstractContextManager[jobs.Crew]:
    """Who does the work of a command; on a GPU one process, unless more are asked for."""
    workers = default if device == "cpu" else 1
    return jobs.crew(workers if a.workers is None else a.workers, a.dask)


def _bench_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--domain", choices=sorted(sets.DOMAINS), default="matched")
    c.add_argument("--files", type=int, default=24, help="utterances of a bench set (default: 24)")
    c.add_argument("--corpus", default="auto")
    c.add_argument("--seed", type=int, default=0)


def _device(name: str, dask: str | None) -> str:
    """The device by its own name; where it is that of another machine, nothing can be said about it here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() and not dask else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; expected cpu, cuda or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; expected cpu, cuda or auto")
    if dask:
        return name
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda: torch sees no CUDA device here; use --device cpu")
    if (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise ValueError(f"device {name}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return name


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"expected names with commas between them, got {text!r}")
    return names


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the audio files in the folders, in order; no two of one name, since results are filed by name."""
    found: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():  # hidden files are no audio: '._x.wav' is what a Mac adds to x.wav
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not inside:
            raise audio.AudioError(f"{path}: expected audio files ({' '.join(SUFFIXES)}) in this folder, got none")
        found += inside
    twice = [name for name, count in Counter(p.stem for p in found).items() if count > 1]
    if twice:
        raise ValueError(f"several inputs are named {twice[0]!r}; results are filed by name, so give one at a time")
    return found


def _free(paths: Sequence[Path], force: bool) -> None:
    """Refuse, before any work is done, to write over what is there."""
    for path in paths:
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already; use --force to overwrite it")
    for folder in {p.parent for p in paths}:
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder}: expected a folder for the results, got a file")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _methods(_: argparse.Namespace) -> None:
    for name, entry in methods.METHODS.items():
        print(f"{name:16} {entry.about}{'  [' + ', '.join(entry.cards) + ']' if entry.cards else ''}")


def _corpora(a: argparse.Namespace) -> None:
    opened = corpora.open_corpora(a.corpus)
    print(opened)
    print(opened.describe().to_string(index=False))


def _fetch(a: argparse.Namespace) -> None:
    got = corpora.import_folder(a.name, a.folder) if a.folder else corpora.fetch(a.name)
    print(got)


def _mix(a: argparse.Namespace) -> None:
    if a.set:
        if a.clean:
            raise ValueError("expected either two files or --set, got both")
        chosen = corpora.open_corpora(a.corpus)
        made = sets.bench_set(chosen, a.set, domain=a.domain, files=a.files, seed=a.seed)
        names = [f"{i:03d}_{mixture.snr_db:+g}dB" for mixture in made for i in range(a.files)]
        mixtures = [
            mixing.Mixture(m.noisy[i], m.clean[i], m.noise[i], m.snr_db, m.key[i : i + 1])
            for m in made
            for i in range(a.files)
        ]
        rate = RATE
    else:
        if not (a.clean and a.noise):
            raise ValueError("expected two files, CLEAN and NOISE, or --set NAME")
        clean, rate = audio.read(a.clean)
        noise, noise_rate = audio.read(a.noise)
        noise = audio.resample(noise.mean(0, keepdim=True), noise_rate, rate)
        (generator,) = rng.generators(a.seed, 1)
        repeated = noise.repeat(1, -(-clean.shape[-1] // noise.shape[-1]))
        start = int(torch.randint(repeated.shape[-1] - clean.shape[-1] + 1, (), generator=generator))
        clean = clean.mean(0)
        mixtures = [mixing.mix(clean, repeated[0, start : start + len(clean)], a.snr)]
        names = [f"{a.clean.stem}_{a.snr:+g}dB"]
    parts = ("noisy", "clean", "noise")
    targets = [[a.out / part / f"{name}.flac" for part in parts] for name in names]
    _free([p for row in targets for p in row], a.force)
    for mixture, row in zip(mixtures, targets, strict=True):
        for x, path in zip(mixture[:3], row, strict=True):
            audio.write(path, x, rate, overwrite=a.force)
    print(f"{len(mixtures)} mixtures in {a.out}{os.sep}{{{','.join(parts)}}}")


def _enhance(a: argparse.Namespace) -> None:
    method = methods.make(a.method)
    device = _device(a.device, a.dask)
    files = _files(a.inputs)
    targets = {p: a.out / (p.name if p.suffix.lower() in LOSSLESS else f"{p.stem}.wav") for p in files}
    if a.resume:
        files = [path for path in files if not targets[path].exists()]
        _say(f"{a.out}: {len(targets) - len(files)} of {len(targets)} files are there already")
    _free([targets[path] for path in files], a.force)
    by_rate: dict[int, list[Path]] = defaultdict(list)
    for path in files:  # every file is looked at before the first is written: no partial output
        x, rate = audio.read(path)
        _warn(path, x, rate)
        by_rate[rate].append(path)
    a.out.mkdir(parents=True, exist_ok=True)
    default = metrics.workers() if len(files) > bench.BATCH else 1
    with _crew(a, device, default) as crew, tqdm(total=len(files), unit="file", disable=None) as bar:
        alone = crew.executor is None
        enhanced = partial(jobs.enhanced, method=method if alone else a.method, seed=a.seed, device=device)
        read = _read(by_rate, bench.BATCH if alone else 1)
        for batch, speech in jobs.completed(crew, enhanced, read):
            for path, estimate in zip(batch.paths, speech, strict=True):
                _write_like(path, targets[path], torch.from_numpy(estimate), batch.rate, a.force)
                bar.update()


def _read(by_rate: Mapping[int, Sequence[Path]], most: int) -> Iterator[jobs.Recordings]:
    """The files, so many of one rate at a time, each time when they are asked for."""
    for rate, group in by_rate.items():
        for i in range(0, len(group), most):
            paths = group[i : i + most]
            yield jobs.Recordings(paths, [audio.read(path)[0].numpy() for path in paths], rate)


def _warn(path: Path, x: torch.Tensor, rate: int) -> None:
    """What a user should know of an input that is not refused."""
    if not x.any():
        _say(f"{path}: silent, stays silent")
    elif (clipped := (x.abs() >= 0.9999).float().mean()) > 1e-3:
        _say(f"{path}: clipped in {100 * clipped:.1f} % of its samples; no method here mends that")
    if rate > RATE:
        _say(f"{path}: {rate} Hz is enhanced at {RATE} Hz, so nothing above {RATE // 2000} kHz remains")


def _write_like(source: Path, target: Path, x: torch.Tensor, rate: int, force: bool) -> None:
    """Write with the sample format of the source; an estimate beyond full scale is lowered, and that is said."""
    subtype = audio.subtype_like(source, target)
    peak = float(x.abs().max())
    if peak > 1 and subtype.startswith("PCM"):
        _say(f"{target}: lowered by {20 * torch.tensor(peak).log10():.1f} dB so that it does not clip")
        x = x / peak
    audio.write(target, x, rate, subtype=subtype, overwrite=force)


def _score(a: argparse.Namespace) -> None:
    import pandas as pd

    default = metrics.METRICS if a.clean else metrics.CLEAN_FREE
    names = metrics.check_names(_names(a.metrics) if a.metrics is not None else default)
    files = _files(a.estimates)
    if a.out:
        _free([a.out], a.force)
    pairs = [_pair(path, a.clean) for path in files]
    with metrics.pool() as executor:
        scored = metrics.score_many(pairs, RATE, names, executor if len(pairs) > 1 else None)
        rows = list(tqdm(scored, total=len(pairs), unit="file", disable=None))
    table = pd.DataFrame([s.values for s in rows], index=pd.Index([p.name for p in files], name="file"))
    print(table.round(3).to_string())
    for name in names:
        missing = [s.reasons[name] for s in rows if name in s.reasons]
        if missing:
            _say(f"{name}: {len(rows) - len(missing)} of {len(rows)} files measured; {missing[0]}")
    if len(rows) > 1:
        print("mean", *(f"{name}={table[name].mean():.3f}" for name in names))
    if a.out:
        with audio.whole(a.out) as part:
            table.to_csv(part)


def _pair(path: Path, clean: Path | None) -> tuple[torch.Tensor | None, torch.Tensor]:
    estimate, rate = audio.read(path)
    estimate = audio.resample(estimate.mean(0), rate, RATE)
    if clean is None:
        return None, estimate
    other = clean
    if clean.is_dir():
        other = next(
            (p for p in sorted(clean.iterdir()) if p.stem == path.stem and p.suffix.lower() in SUFFIXES),
            clean / path.name,
        )
    reference, other_rate = audio.read(other)
    reference = audio.resample(reference.mean(0), other_rate, RATE)
    if len(reference) != len(estimate):
        raise ValueError(
            f"{path}: has {len(estimate)} samples at 16 kHz but {other} has {len(reference)}; cut them to one length"
        )
    return reference, estimate


def _bench(a: argparse.Namespace) -> None:
    names = metrics.check_names(_names(a.metrics))
    chosen = {name: name for name in _names(a.methods)}
    for name in chosen:  # a wrong name, or weights that are missing, before any work is done
        methods.make(name)
    device = _device(a.device, a.dask)
    if a.out:
        _free([a.out], a.force)
    opened = corpora.open_corpora(a.corpus)
    made = sets.bench_set(opened, a.set, domain=a.domain, files=a.files, seed=a.seed)
    parts = a.out and a.out.with_name(f"{a.out.name}.parts")
    with _crew(a, device, metrics.workers()) as crew, _measuring(crew) as executor:
        rows = bench.spread(
            crew, chosen, made, metrics=names, seed=a.seed, device=device, folder=parts, executor=executor
        )
        total = len(made) * (len(chosen) + 1) * a.files
        table = bench.ordered(tqdm(rows, total=total, unit="file", disable=None))
    print(opened)
    print(plots.table(bench.summary(table, names), names).T.to_string())
    print("\nover all SNRs, with 95 % intervals; Δ is against noisy")
    print(bench.overview(table, names).T.to_string())
    if a.out:
        bench.save(a.out, table, bench.provenance(set=a.set, domain=a.domain, corpus=str(opened), seed=a.seed))
        shutil.rmtree(parts)


def _measuring(crew: jobs.Crew) -> AbstractContextManager[Executor | None]:
    """Processes that measure while this one has the methods; workers measure what they have made."""
    return metrics.pool() if crew.executor is None else nullcontext()


def _train(a: argparse.Namespace) -> None:
    recipes.recipe(a.name)
    _free([a.out / f"{a.name}.safetensors"], a.force)
    fabric = fitting.launch(a.devices, a.nodes, a.accelerator)
    first = fabric is None or fabric.is_global_zero
    try:
        path = train.write_card(a.name, corpora.open_corpora(a.corpus), seed=a.seed, folder=a.out, fabric=fabric)
    except (ValueError, OSError):
        if first:
            raise
        sys.exit(2)  # the first process says why
    if first:
        about = f"{path.stat().st_size} bytes, sha256 {weights.sha256(path)}"
        print(f"{path}: {about}; its card is in {a.out / 'cards.toml'}")


if __name__ == "__main__":
    sys.exit(main())
