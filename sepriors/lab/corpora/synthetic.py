"""The fall-back when there is neither a corpus nor a network: espeak-ng speaks, and noise is drawn.

Two corpora, `synthetic` (English, and noise) and `synthetic-de` (German, the mismatched speech); always the same bytes.
They are good for trying the code, not for claims.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

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


# (corpus, split) -> voices and utterances a voice. No variant (after the +) occurs in two splits, nor in two corpora.
_CAST = {
    ("synthetic", "train"): (
        "en-us+m1 en+m2 en-us+m3 en-gb-scotland+m4 en-us+m5 en-029+Lee",
        "en-us+f1 en+f2 en-us+f3 en-gb-scotland+Annie en-us+belinda en-029+Alicia",
        4,
    ),
    ("synthetic", "valid"): ("en-us+m6", "en+aunty", 4),
    ("synthetic", "test"): ("en-us+m7 en+Reed en-us+Michael", "en-us+f4 en+f5 en-us+steph", 5),
    ("synthetic-de", "train"): ("de+victor de+travis", "de+Andrea de+shelby", 4),
    ("synthetic-de", "test"): ("de+Mike de+robert", "de+grandma de+anika", 6),
}

# Written for this project and given to the public domain. A split has its own sentences.
_SENTENCES = {
    ("synthetic", "train"): """
        The farmer carried a basket of green pears to the market.
        We waited by the old bridge until the evening train arrived.
        A thin layer of ice had covered the pond during the night.
        My neighbour paints her wooden fence blue every second spring.
        The children built a castle from boxes and yellow paper.
        Nobody noticed that the clock in the hall had stopped.
        Fresh bread and strong coffee are waiting in the kitchen.
        He folded the letter twice and put it under the lamp.
        The ferry leaves at seven unless the wind is too strong.
        She found a silver ring between the stones on the beach.
        Our teacher asked each of us to bring a small plant.
        A grey cat was sleeping on the warm roof of the car.
        The judge spoke slowly so that everyone could follow her.
        They moved the heavy piano through the window with ropes.
        Rain had washed the chalk drawings from the pavement.
        Please turn off the light before you lock the back door.
        The museum keeps its largest maps in the cellar.
        Three brown goats were standing quietly in the shade.
        I would rather walk home than wait for another bus.
        The baker measured flour and sugar with great care.
        Her uncle repairs violins in a shop near the harbour.
        After lunch we climbed the hill to look at the valley.
        The new map shows every path that crosses the forest.
        A loud whistle told the workers that the day was over.""",
    ("synthetic", "valid"): """
        The pilot checked the gauge and waved to the tower.
        Cold soup tastes better with a little lemon and pepper.
        Two sailors were mending a torn net on the quay.
        The library opens an hour later on the first Monday.
        He bought a used bicycle and painted the frame red.
        Dark clouds were gathering above the northern fields.
        The nurse wrote both names on the back of the card.
        We heard the choir practise through the open window.""",
    ("synthetic", "test"): """
        The carpenter left his hammer on the garden wall.
        A narrow road leads past the mill to the chapel.
        She sold her boat and moved to a house in the city.
        The engine coughed twice before it finally started.
        Someone had written a short poem on the frosted glass.
        The doctor recommended a long walk after each meal.
        Blue smoke was rising from the chimney of the hut.
        They planted a row of apple trees along the canal.
        The speaker thanked the audience and closed his book.
        We need four more chairs and a larger table for tonight.
        The shepherd counted his flock at the gate twice a day.
        An orange kite was caught in the branches of the oak.
        His sister studies the weather on an island in the south.
        The tailor shortened the sleeves by the width of a thumb.
        Old coins and broken pottery lay in the muddy ditch.
        The guests admired the painting above the fireplace.
        You can see the lighthouse from the top of the stairs.
        A young fox crossed the railway just before sunrise.
        The soup was served in bowls made of polished wood.
        Each winter the lake freezes from the northern shore.
        The clerk stamped the form and handed me a receipt.
        Her bag was full of pencils, stamps and foreign money.
        The dog barked once and then lay down by the stove.
        Nine runners reached the finish before the storm began.""",
    ("synthetic-de", "train"): """
        Der Gärtner schneidet die Hecke vor dem alten Rathaus.
        Am Abend sitzen wir gern auf der Bank unter der Linde.
        Das kleine Boot liegt seit gestern am anderen Ufer.
        Meine Tante backt jeden Sonntag einen großen Kuchen.
        Die Kinder suchen im Keller nach der roten Laterne.
        Er hat den Schlüssel unter der Matte liegen lassen.
        Im Winter fährt der Bus nur bis zur unteren Mühle.
        Neben dem Brunnen steht ein Wagen voller Äpfel.""",
    ("synthetic-de", "test"): """
        Der Lehrer schreibt drei lange Wörter an die Tafel.
        Hinter dem Bahnhof beginnt ein schmaler Weg zum Fluss.
        Die Nachbarin gießt morgens früh die Blumen im Hof.
        Wir haben das Fenster geöffnet, weil es so warm war.
        Auf dem Dach saß eine Krähe und putzte ihr Gefieder.
        Der Zug nach Süden hält heute an einem anderen Gleis.
        Sie legte das Buch zurück in den Schrank im Flur.
        Nach dem Regen roch die Wiese nach frischem Gras.
        Ein alter Mann verkauft Kerzen auf dem Marktplatz.
        Die Glocke der Kirche läutet um zwölf Uhr zweimal.
        Bring bitte noch Brot und etwas Käse aus der Stadt mit.
        Das Mädchen malte einen blauen Fisch auf das Papier.""",
}


def build(cache: Path) -> Path:
    """The folder cache/synthetic-VERSION with its manifest, made now, in some 5 s, unless it is there.

    Two processes may build at once: each works in a folder of its own, and the first to finish is kept.
    Raises CorpusError when espeak-ng does not load or speak on this machine.
    """
    home = Path(cache) / f"synthetic-{VERSION}"
    if (home / NAME).is_file():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}-"))
    try:
        make(part)
        os.chmod(part, 0o755)
        try:
            part.rename(home)
        except OSError:
            if not (home / NAME).is_file():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
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
    for (corpus, split), (men, women, utterances) in _CAST.items():
        sentences = [s.strip() for s in _SENTENCES[corpus, split].strip().splitlines()]
        for gender, names in (("M", men), ("F", women)):
            for name in names.split():
                pitch, spread, rate = (int(rng.integers(*bounds)) for bounds in ((40, 61), (40, 71), (165, 191)))
                voice = Voice(name, gender, split, pitch, spread, rate)
                order = np.resize(rng.permutation(len(sentences)), 2 * utterances).reshape(-1, 2)
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
