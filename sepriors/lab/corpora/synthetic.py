"""The fall-back when there is neither a corpus nor a network: espeak-ng speaks, and noise is drawn.

Two corpora, `synthetic` (English, and noise) and `synthetic-de` (German, the mismatched speech); always the same bytes.
They are good for trying the code, not for claims.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sepriors.files import scratch_folder
from sepriors.lab.corpora.manifest import FIELDS, NAME, SAMPLE_RATE, CorpusError, check_disjoint, write_manifest
from sepriors.lab.corpora.readers import add_babble
from sepriors.signal import audio

VERSION = 2  # raise it whenever the corpus changes, lest an old one in the cache be taken for the new
NOISE_SECONDS = 20.0
NOISE_FILES = {"train": 3, "valid": 1, "test": 2}  # of each class


@dataclass(frozen=True)
class Voice:
    """A speaker: an espeak-ng voice, with pitch and range (0-100) and rate (words a minute)."""

    name: str
    gender: str
    split: str
    pitch: int
    range: int
    rate: int


def build(cache: Path) -> Path:
    """The folder cache/synthetic-VERSION with its manifest, made now, in some 5 s, unless it is there.

    Two processes may build at once: each works in a folder of its own, and the first to finish is kept.
    Raises CorpusError when espeak-ng does not load or speak on this machine.
    """
    home = Path(cache) / f"synthetic-{VERSION}"
    if (home / NAME).is_file():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(home.parent, f".{home.name}", clear=False) as part:
        make(part)
        part.chmod(0o755)
        try:
            part.rename(home)
        except OSError:
            if not (home / NAME).is_file():
                raise
    return home


def make(folder: Path) -> None:
    """Write both corpora and their manifest into an empty folder."""
    rows = list(_speech(folder))
    table = pd.DataFrame(rows, columns=list(FIELDS))
    english = add_babble(folder, table[table["corpus"] == "synthetic"], NOISE_FILES, NOISE_SECONDS)
    german = table[table["corpus"] == "synthetic-de"]
    table = pd.concat([english, german, pd.DataFrame(_noise(folder), columns=list(FIELDS))], ignore_index=True)
    check_disjoint(table)
    write_manifest(folder, table)


# -------------------------------------------------------------------------- speech


def _speech(folder: Path) -> Iterator[dict[str, object]]:
    plan = list(_plan())
    spoken, rate, version = speak([(voice, text) for _, voice, _, text in plan])
    for n, ((corpus, voice, i, _), samples) in enumerate(zip(plan, spoken)):
        x = audio.resample(torch.from_numpy(samples).float() / 2**15, rate, SAMPLE_RATE)
        x = _room(_trim(x), seed=n)
        speaker = voice.name.replace("+", "-")
        path = f"{corpus}/{voice.split}/{speaker}/{speaker}-{i}.flac"
        audio.write(folder / path, x, SAMPLE_RATE)
        about = {"speaker": speaker, "gender": voice.gender, "split": voice.split, "seconds": len(x) / SAMPLE_RATE}
        yield _row(path, corpus, "speech", source=f"espeak-ng {version} voice {voice.name}", **about)


def _plan() -> Iterator[tuple[str, Voice, int, str]]:
    """Who says what: two sentences an utterance, in an order drawn for each speaker."""
    rng = np.random.default_rng(0)
    casts = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for corpus, split, cast in ((corpus, split, cast) for corpus, of in casts.items() for split, cast in of.items()):
        sentences = cast["sentences"].splitlines()
        for gender, name in [*(("M", name) for name in cast["men"]), *(("F", name) for name in cast["women"])]:
            pitch, spread, rate = (int(rng.integers(*bounds)) for bounds in ((40, 61), (40, 71), (165, 191)))
            voice = Voice(name, gender, split, pitch, spread, rate)
            order = np.resize(rng.permutation(len(sentences)), 2 * cast["utterances"]).reshape(-1, 2)
            for i, (a, b) in enumerate(order):
                yield corpus, voice, i, f"{sentences[a]} {sentences[b]}"


def speak(lines: list[tuple[Voice, str]]) -> tuple[list[np.ndarray], int, str]:
    """The samples (N,), 16-bit, of each line as espeak-ng speaks it, their rate in Hz, and espeak-ng's version.

    It runs in a process of its own: espeak-ng carries state from one utterance to the next, so only a fresh one gives
    the same bytes twice. Raises CorpusError when it does not load or speak.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "lines.json", Path(folder) / "spoken.npz"
        request.write_text(json.dumps([[asdict(voice), text] for voice, text in lines]), encoding="utf-8")
        package = Path(__file__).parents[3]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
        code = "import sys; from sepriors.lab.corpora.synthetic import _speaker; _speaker(sys.argv[1], sys.argv[2])"
        child = subprocess.run([sys.executable, "-c", code, request, answer], env=env, capture_output=True, text=True)
        if child.returncode != 0:
            said = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
            raise CorpusError(
                f"espeak-ng, which speaks the synthetic corpus, does not work on this machine: {said}. "
                "Set SEPRIORS_DATA to a folder with a manifest.csv, or run `sepriors fetch mini-librispeech`."
            )
        with np.load(answer) as spoken:
            samples = [spoken[f"line{i}"] for i in range(len(lines))]
            return samples, int(spoken["rate"]), str(spoken["version"])


def _speaker(request: str, answer: str) -> None:
    """What the child process does: speak the lines of a JSON file into an .npz file."""
    lines = json.loads(Path(request).read_text(encoding="utf-8"))
    say, rate, version = _espeak()
    spoken: dict[str, Any] = {f"line{i}": say(Voice(**voice), text) for i, (voice, text) in enumerate(lines)}
    np.savez(answer, **spoken, rate=rate, version=version)


def _espeak() -> tuple[Callable[[Voice, str], np.ndarray], int, str]:
    """say(voice, text) -> samples, its sample rate, and the version; the numbers are those of speak_lib.h."""
    import espeakng_loader  # here, so that a machine without it fails in the child, with a message

    lib = ctypes.CDLL(espeakng_loader.get_library_path())
    synchronous, do_not_exit, utf8, rate, pitch, spread = 2, 0x8000, 1, 1, 3, 4
    sample_rate = lib.espeak_Initialize(synchronous, 0, espeakng_loader.get_data_path().encode(), do_not_exit)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak_Initialize expected a sample rate, got {sample_rate}")
    lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(voice: Voice, text: str) -> np.ndarray:
        chunks.clear()
        lib.espeak_SetSynthCallback(collect)  # named here, so that it lives as long as say does
        if lib.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise RuntimeError(f"no voice {voice.name}")
        for parameter, value in ((rate, voice.rate), (pitch, voice.pitch), (spread, voice.range)):
            lib.espeak_SetParameter(parameter, value, 0)
        line = text.encode() + b"\0"
        status = lib.espeak_Synth(line, ctypes.c_size_t(len(line)), 0, 1, 0, utf8, None, None)
        if status != 0 or not chunks:
            raise RuntimeError(f"espeak_Synth of {voice.name} expected status 0 and samples, got status {status}")
        return np.concatenate(chunks)

    lib.espeak_Info.restype = ctypes.c_char_p
    return say, sample_rate, lib.espeak_Info(None).decode().split()[0]


def _trim(x: torch.Tensor) -> torch.Tensor:
    """Without the silence before and after, but for a tenth of a second."""
    loud = (x.abs() > 0.01 * x.abs().max()).nonzero().flatten()
    margin = SAMPLE_RATE // 10
    return x[max(int(loud[0]) - margin, 0) : int(loud[-1]) + margin]


def _room(x: torch.Tensor, seed: int) -> torch.Tensor:
    """At a peak of 0.5, over white noise 66 dB below it: no recording is exactly zero between its words."""
    hiss = np.random.default_rng([1, seed]).standard_normal(len(x))
    return 0.5 * x / x.abs().max() + 2.5e-4 * torch.from_numpy(hiss).float()


# --------------------------------------------------------------------------- noise


def _noise(folder: Path) -> list[dict[str, object]]:
    rows = []
    makers = {"white": _white, "pink": _pink, "modulated": _modulated}
    for c, (cls, maker) in enumerate(makers.items()):
        for s, (split, files) in enumerate(NOISE_FILES.items()):
            for i in range(files):
                x = torch.from_numpy(maker(np.random.default_rng([2, c, s, i]), int(NOISE_SECONDS * SAMPLE_RATE)))
                path = f"synthetic/noise/{cls}_{split}_{i}.flac"
                x = (x * min(0.05 / x.std(), 0.9 / x.abs().max())).float()
                audio.write(folder / path, x, SAMPLE_RATE)
                about = {"cls": cls, "split": split, "seconds": NOISE_SECONDS}
                rows.append(_row(path, "synthetic", "noise", source=f"drawn, {cls} {split} {i}", **about))
    return rows


def _white(rng: np.random.Generator, samples: int) -> np.ndarray:
    return rng.standard_normal(samples)


def _pink(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Power falls as 1/f, from 20 Hz on."""
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) / np.sqrt(np.maximum(frequency, 20.0)), samples)


def _modulated(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Pink noise whose level moves as that of speech does: its envelope holds modulations of 1-8 Hz, over 20 dB."""
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    syllables = np.fft.rfft(rng.standard_normal(samples)) * ((frequency > 1) & (frequency < 8))
    level = np.fft.irfft(syllables, samples)
    decibels = 10 * np.clip(level / level.std(), -2, 1)
    return _pink(rng, samples) * 10 ** (decibels / 20)


def _row(path: str, corpus: str, kind: str, **about: object) -> dict[str, object]:
    return {**dict.fromkeys(FIELDS, ""), "path": path, "corpus": corpus, "kind": kind, "licence": "CC0 1.0", **about}
