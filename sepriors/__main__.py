"""The `sepriors` command. Exit status: 0 done, 2 bad input (one clear line), 130 interrupted."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from tqdm import tqdm

from sepriors import __version__, methods, metrics, weights
from sepriors.files import atomic_write
from sepriors.lab import bench, corpora, jobs, peers, plots, recipes, train
from sepriors.lab.corpora import sets
from sepriors.lab.training import fitting
from sepriors.signal import audio, mixing, rng

LOSSLESS = (".wav", ".flac", ".aiff", ".aif", ".w64", ".caf", ".wave", ".rf64", ".aifc", ".au", ".snd")
SUFFIXES = (*LOSSLESS, ".sph", ".ogg", ".oga", ".opus", ".mp3", ".mp2")  # what is taken from a folder
FOREIGN = (".m4a", ".mp4", ".aac", ".wma", ".amr", ".ape", ".wv", ".webm", ".mka", ".spx", ".ac3")
TOGETHER = 64.0  # seconds of all channels that are read at once; a longer file comes alone
RATE = 16000  # Hz; the rate of every prior


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):  # whatever a terminal cannot show, a table or a name is not lost for it
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
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
    _recursive(c)
    c.add_argument("--method", required=True, metavar="NAME", help=f"one of {', '.join(methods.METHODS)}")
    c.add_argument("--seed", type=int, default=0)
    _workers(c, f"all cores for more than {bench.BATCH} files, else 1, which takes files together")
    _out(c, about="folder for the results, or for one input the name of a file").add_argument(
        "--resume", action="store_true", help="take the files that are there, and whole, for done, and make the others"
    )

    c = command("score", _score, "measure estimates against clean speech, or without it by DNSMOS alone")
    c.add_argument(
        "estimates", nargs="+", type=Path, metavar="ESTIMATE", help="audio files of one channel, or folders of them"
    )
    _recursive(c)
    c.add_argument("--clean", type=Path, help="the clean file, or a folder with files of the same names")
    c.add_argument(
        "--rate", type=int, metavar="HZ", help="resample what is faster to this rate first (default: as the files are)"
    )
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


def _recursive(c: argparse.ArgumentParser) -> None:
    c.add_argument("--recursive", action="store_true", help="take what is in the folders of folders, too")


def _out(
    c: argparse.ArgumentParser, default: Path | None = None, about: str = "folder for the results"
) -> argparse._MutuallyExclusiveGroup:
    """Where results go; returns the group of options that say what becomes of files that are there already."""
    about += " (default: the cards of the package)" if default else ""
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


def _crew(a: argparse.Namespace, device: str, default: int) -> AbstractContextManager[jobs.WorkerPool]:
    """Who does the work of a command; on a GPU one process, unless more are asked for."""
    workers = default if device == "cpu" else 1
    return jobs.worker_pool(workers if a.workers is None else a.workers, a.dask)


def _bench_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("--domain", choices=sorted(sets.DOMAINS), default="matched")
    c.add_argument("--files", type=int, default=24, help="utterances of a bench set (default: 24)")
    c.add_argument("--seconds", type=float, default=4.0, help="of each utterance (default: 4)")
    c.add_argument("--split", choices=["valid", "test"], default="test", help="valid: to choose settings by")
    c.add_argument("--corpus", default="auto")
    c.add_argument("--seed", type=int, default=0)


def _bench_set(opened: corpora.Corpora, a: argparse.Namespace) -> list[mixing.Mixture]:
    return sets.bench_set(opened, a.set, domain=a.domain, files=a.files, seconds=a.seconds, split=a.split, seed=a.seed)


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


class Found(NamedTuple):
    """An audio file, and its name in the folder that was given, by which its results are filed."""

    path: Path
    name: Path


def _files(paths: Sequence[Path], recursive: bool, out: Path | None = None) -> list[Found]:
    """The files, and the audio files in the folders except `out`, in order; no two of one name.

    What is left out of a folder is told.
    """
    found: list[Found] = []
    for path in paths:
        inside = list(_inside(path, recursive, out)) if path.is_dir() else [Found(path, Path(path.name))]
        taken = [f for f in inside if f.path == path or (f.name.suffix.lower() in SUFFIXES and not f.path.is_dir())]
        known = set(taken)
        left = _left_out(f for f in inside if f not in known)
        if not taken:
            also = f"; left out {left}" if left else ""
            raise audio.AudioError(
                f"{path}: expected audio files ({' '.join(SUFFIXES)}) in this folder, got none{also}"
            )
        if left:
            _say(f"{path}: left out {left}")
        found += taken
    twice = [name for name, count in Counter(f.name.with_suffix("") for f in found).items() if count > 1]
    if twice:
        raise ValueError(f"several inputs are named '{twice[0]}'; results are filed by name, so give one at a time")
    return found


def _inside(folder: Path, recursive: bool, out: Path | None) -> Iterator[Found]:
    """What is in a folder, and folders where they are not entered. Hidden files are no audio: a Mac adds '._x.wav'."""
    for root, folders, names in os.walk(folder, onerror=_raise):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (out and _same(here / f, out)))
        names += [] if recursive else folders
        yield from (Found(here / n, (here / n).relative_to(folder)) for n in sorted(names) if not n.startswith("."))
        if not recursive:
            return


def _raise(error: OSError) -> None:
    raise error


def _left_out(files: Iterable[Found]) -> str:
    """The files of a folder that are not taken, kind by kind, and why."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in files:
        suffix = file.name.suffix.lower()
        if file.path.is_dir():
            why = "in a folder of its own, --recursive takes that"
        elif suffix in FOREIGN:
            why = f"libsndfile reads no {suffix}"
        else:
            why = f"{suffix or 'no suffix'} is not taken for audio"
        kinds[why].append(f"{file.name}{os.sep if file.path.is_dir() else ''}")
    return ", ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({why})" for why, names in kinds.items()
    )


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


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
    if _names_a_file(a.out):
        raise ValueError(f"{a.out}: expected a folder for the three files of a mixture, got the name of a file")
    if a.set:
        if a.clean:
            raise ValueError("expected either two files or --set, got both")
        chosen = corpora.open_corpora(a.corpus)
        made = _bench_set(chosen, a)
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
        for path, x in ((a.clean, clean), (a.noise, noise)):
            if len(x) > 1:
                _say(f"{path}: {len(x)} channels, of which the mean is taken")
        noise = audio.resample(noise.mean(0, keepdim=True), noise_rate, rate)
        (generator,) = rng.generators(a.seed, 1)
        repeated = noise.repeat(1, -(-clean.shape[-1] // noise.shape[-1]))
        start = int(torch.randint(repeated.shape[-1] - clean.shape[-1] + 1, (), generator=generator))
        clean = clean.mean(0)
        mixtures = [mixing.mix(clean, repeated[0, start : start + len(clean)], a.snr)]
        names = [f"{a.clean.stem}_{a.snr:+g}dB"]
    parts = ("noisy", "clean", "noise")
    suffix, subtype = mixing.form(mixtures)
    targets = [[a.out / part / f"{name}{suffix}" for part in parts] for name in names]
    _free([p for row in targets for p in row], a.force)
    for mixture, row in zip(mixtures, targets, strict=True):
        for x, path in zip(mixture[:3], row, strict=True):
            audio.write(path, x, rate, subtype=subtype, overwrite=a.force)
    print(f"{len(mixtures)} mixtures in {a.out}{os.sep}{{{','.join(parts)}}}")


def _enhance(a: argparse.Namespace) -> None:
    if a.method in peers.PEERS:
        raise ValueError(
            f"{a.method} is a package of others, which the chapters compare with (sepriors.lab.peers); expected one of "
            f"the methods here: {', '.join(methods.METHODS)}"
        )
    method = methods.make(a.method)
    device = _device(a.device, a.dask)
    targets = _targets(_files(a.inputs, a.recursive, a.out), a.out)
    _free(list(targets.values()), a.force or a.resume)
    by_rate: dict[int, list[tuple[Path, float]]] = defaultdict(list)
    there = 0
    for path, target in targets.items():  # every file is looked at before the first is written: no partial output
        x, rate = audio.read(path)
        if a.resume and _done(path, target, x, rate):
            there += 1
            continue
        _warn(path, x, rate)
        by_rate[rate].append((path, x.numel() / min(rate, RATE)))
    left = len(targets) - there
    if a.resume:
        _say(f"{a.out}: {there} of {len(targets)} files are there already")
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    default = metrics.workers() if left > bench.BATCH else 1
    with _crew(a, device, default) as worker_pool, tqdm(total=left, unit="file", disable=None) as bar:
        alone = worker_pool.executor is None
        enhanced = partial(jobs.enhanced, method=method if alone else a.method, seed=a.seed, device=device)
        read = _read(by_rate, bench.BATCH if alone else 1)
        for batch, speech in jobs.as_completed(worker_pool, enhanced, read):
            for path, estimate in zip(batch.paths, speech, strict=True):
                _write_like(path, targets[path], torch.from_numpy(estimate), batch.rate, a.force or a.resume)
                bar.update()


def _names_a_file(out: Path) -> bool:
    return out.suffix.lower() in (*SUFFIXES, *FOREIGN) and not out.is_dir()


def _targets(files: Sequence[Found], out: Path) -> dict[Path, Path]:
    """Where the result of each file goes: below a folder, by its name, or for one file to the file that is named."""
    if not _names_a_file(out):
        return {
            path: out / (name if name.suffix.lower() in LOSSLESS else name.with_suffix(".wav")) for path, name in files
        }
    if len(files) > 1:
        raise ValueError(f"{out}: expected a folder for {len(files)} results, got the name of a file")
    if out.suffix.lower() not in LOSSLESS:
        raise ValueError(f"{out}: expected a file that keeps length and level ({' '.join(LOSSLESS)}), got {out.suffix}")
    return {files[0].path: out}


def _done(path: Path, target: Path, x: torch.Tensor, rate: int) -> bool:
    """Whether a result is there and whole; what is there and is not so is told of, and made again."""
    if not target.exists():
        return False
    if _same(path, target):
        raise FileExistsError(
            f"{target} exists already and is the input itself; expected another folder for the results"
        )
    try:
        made, made_rate = audio.read(target)
    except audio.AudioError as error:
        _say(f"{error}; made again")
        return False
    if (made.shape, made_rate) == (x.shape, rate):
        return True
    _say(
        f"{target}: expected {tuple(x.shape)} samples at {rate} Hz, got {tuple(made.shape)} at {made_rate}; made again"
    )
    return False


def _read(by_rate: Mapping[int, Sequence[tuple[Path, float]]], most: int) -> Iterator[jobs.Recordings]:
    """The files, with the seconds of each, so many of one rate at a time, each time when they are asked for."""
    for rate, group in by_rate.items():
        for paths in _batches(group, most):
            yield jobs.Recordings(paths, [audio.read(path)[0].numpy() for path in paths], rate)


def _batches(group: Sequence[tuple[Path, float]], most: int) -> Iterator[list[Path]]:
    """So many files at most, and no more than TOGETHER seconds, unless one alone is longer."""
    batch: list[Path] = []
    total = 0.0
    for path, seconds in group:
        if batch and (len(batch) == most or total + seconds > TOGETHER):
            yield batch
            batch, total = [], 0.0
        batch.append(path)
        total += seconds
    if batch:
        yield batch


def _warn(path: Path, x: torch.Tensor, rate: int) -> None:
    """What a user should know of an input that is not refused."""
    if not x.any():
        _say(f"{path}: silent, stays silent")
    elif x.abs().max() <= 1 and (clipped := (x.abs() >= 0.9999).float().mean()) > 1e-3:  # floats go on beyond 1
        _say(f"{path}: clipped in {100 * clipped:.1f} % of its samples; no method here mends that")
    offsets = audio.dc_offset(x.double(), rate)
    if offsets.any():
        offset = float(offsets[offsets.abs().argmax()])
        _say(f"{path}: DC offset of {offset:.2g}, removed for the method and put back")
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
    files = _files(a.estimates, a.recursive)
    if a.out:
        _free([a.out], a.force)
    by_rate: dict[int, list[tuple[Found, Path | None]]] = defaultdict(list)
    for file in files:  # every pair is looked at before the first is measured
        clean = _clean_of(file, a.clean)
        by_rate[_pair(file.path, clean, a.rate)[2]].append((file, clean))
    scores: dict[Found, metrics.Scores] = {}
    together = metrics.pool() if len(files) > 1 else nullcontext()
    with together as executor, tqdm(total=len(files), unit="file", disable=None) as bar:
        for rate, group in by_rate.items():
            pairs = (_pair(file.path, clean, a.rate)[:2] for file, clean in group)
            for (file, _), measured in zip(group, metrics.score_many(pairs, rate, names, executor), strict=True):
                scores[file] = measured
                bar.update()
    rows = [scores[file] for file in files]
    index = pd.Index([_plain(file.name) for file in files], name="file")
    table = pd.DataFrame([s.values for s in rows], index=index)
    if a.out:
        with atomic_write(a.out) as part:
            table.to_csv(part)
    print(table.round(3).to_string())
    for name in names:
        missing = [s.reasons[name] for s in rows if name in s.reasons]
        if missing:
            _say(f"{name}: {len(rows) - len(missing)} of {len(rows)} files measured; {missing[0]}")
    if a.rate is None and max(by_rate) > RATE:
        _say(f"measured at the files' own rates, up to {max(by_rate)} Hz; --rate {RATE} measures what lies below 8 kHz")
    if len(rows) > 1:
        print("mean", *(f"{name}={table[name].mean():.3f}" for name in names))


def _plain(name: Path) -> str:
    """A name for a table, also where it is not UTF-8."""
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def _clean_of(file: Found, clean: Path | None) -> Path | None:
    """The clean file of an estimate: the one given, or in a folder that of the same name, else the one of its stem."""
    if clean is None or not clean.is_dir():
        return clean
    exact = clean / file.name
    near = [exact] if exact.is_file() or not exact.parent.is_dir() else sorted(
        p for p in exact.parent.iterdir() if p.stem == exact.stem and p.suffix.lower() in SUFFIXES
    )  # fmt: skip
    if len(near) > 1:
        found = ", ".join(p.name for p in near)
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
        raise ValueError(
            f"{path}: has {len(estimate)} samples at {at / 1000:g} kHz but {clean} has {len(reference)}; "
            "cut them to one length"
        )
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


def _bench(a: argparse.Namespace) -> None:
    names = metrics.check_names(_names(a.metrics))
    chosen = {name: name for name in _names(a.methods)}
    for name in chosen:  # a wrong name, or weights that are missing, before any work is done
        methods.make(name)
    device = _device(a.device, a.dask)
    if a.out:
        _free([a.out], a.force)
    opened = corpora.open_corpora(a.corpus)
    made = _bench_set(opened, a)
    parts = a.out and a.out.with_name(f"{a.out.name}.parts")
    with _crew(a, device, metrics.workers()) as worker_pool, _measuring(worker_pool) as executor:
        rows = bench.run_parallel(
            worker_pool, chosen, made, metrics=names, seed=a.seed, device=device, folder=parts, executor=executor
        )
        total = len(made) * (len(chosen) + 1) * a.files
        table = bench.ordered(tqdm(rows, total=total, unit="file", disable=None))
    if a.out:  # before anything is printed, which may fail
        asked = {name: getattr(a, name) for name in ("set", "domain", "split", "seconds", "seed")}
        bench.save(a.out, table, bench.provenance(**asked, corpus=str(opened)))
        shutil.rmtree(parts)
    print(opened)
    print(plots.table(bench.summary(table, names), names).T.to_string())
    print("\nover all SNRs, with 95 % intervals; Δ is against noisy")
    print(bench.overview(table, names).T.to_string())


def _measuring(worker_pool: jobs.WorkerPool) -> AbstractContextManager[Executor | None]:
    """Processes that measure while this one has the methods; workers measure what they have made."""
    return metrics.pool() if worker_pool.executor is None else nullcontext()


def _train(a: argparse.Namespace) -> None:
    recipes.recipe(a.name)
    _free([a.out / f"{a.name}.safetensors"], a.force)
    fabric = fitting.init_distributed(a.devices, a.nodes, a.accelerator)
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
