"""From the layout that a corpus is published in to the rows of a manifest, one function a corpus.

Each takes the folder that holds the corpus, and yields its files with what is known of them; it changes nothing. To add
a corpus: write its function, name it in READERS, and give registry.toml its archives if it may be downloaded.

Splits never share a speaker (speech) or a recording (noise). Each function's docstring states its rule.
"""

import csv
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import soundfile
import torch

from sepriors.lab.corpora.manifest import FIELDS, ONE_TALKER, SAMPLE_RATE, CorpusError
from sepriors.signal import audio

Clips = Iterator[tuple[Path, dict[str, str]]]  # a file, and its fields beside path, corpus, seconds


class ReaderError(CorpusError):
    """A folder that does not have the layout of the corpus it is said to be."""


class Reader(NamedTuple):
    """What finds the files of a corpus, the licence of all but those that have their own, and an example of a path."""

    clips: Callable[[Path], Clips]
    licence: str
    example: str


def read_layout(name: str, folder: Path) -> pd.DataFrame:
    """The table, with the columns of a manifest, of the corpus in a folder; paths are relative to it."""
    reader = READERS[name]
    rows = [_row(folder, file, name, **{"licence": reader.licence, **about}) for file, about in reader.clips(folder)]
    if not rows:
        raise ReaderError(f"{folder}: expected audio such as {reader.example}, got none")
    return pd.DataFrame(rows, columns=list(FIELDS))


# -------------------------------------------------------------------------- speech


def mini_librispeech(folder: Path) -> Clips:
    """Mini LibriSpeech (OpenSLR 31): LibriSpeech/{train-clean-5,dev-clean-2}/SPEAKER/CHAPTER/*.flac and SPEAKERS.TXT.

    train-clean-5 is train. The speakers of dev-clean-2, sorted by gender and number, go in turn to test and valid.
    """
    home = _home(folder, "train-clean-5", "dev-clean-2")
    genders = _librispeech_genders(home / "SPEAKERS.TXT")
    readers = {d.name for d in (home / "dev-clean-2").iterdir() if d.is_dir()}
    order = sorted(readers, key=lambda s: (genders.get(s, ""), _number(s)))
    splits = {speaker: ("test", "valid")[i % 2] for i, speaker in enumerate(order)}
    for part in ("train-clean-5", "dev-clean-2"):
        for file, about in _librispeech_part(home / part, genders, "OpenSLR 31"):
            yield file, {**about, "split": splits.get(about["speaker"], "train")}


_LIBRISPEECH_SPLITS = {
    "train-clean-100": "train", "train-clean-360": "train", "train-other-500": "train",
    "dev-clean": "valid", "dev-other": "valid", "test-clean": "test", "test-other": "test",
}  # fmt: skip


def librispeech(folder: Path) -> Clips:
    """LibriSpeech (OpenSLR 12): LibriSpeech/{train,dev,test}-*/SPEAKER/CHAPTER/*.flac and SPEAKERS.TXT.

    As published: train-* is train, dev-* valid, test-* test, whichever of the seven parts are there. Mini LibriSpeech
    takes readers of train-clean-100 and dev-clean, and half of the latter are test there: to choose by dev-clean what
    is judged on Mini LibriSpeech would be to choose by the test.
    """
    home = _home(folder, "SPEAKERS.TXT")
    genders = _librispeech_genders(home / "SPEAKERS.TXT")
    for part, split in _LIBRISPEECH_SPLITS.items():
        for file, about in _librispeech_part(home / part, genders, "OpenSLR 12"):
            yield file, {**about, "split": split}


def _librispeech_part(part: Path, genders: Mapping[str, str], source: str) -> Clips:
    """The utterances of a part, and who reads each."""
    for file in sorted(part.glob("*/*/*.flac")):
        speaker = file.parent.parent.name
        yield file, {"speaker": speaker, "gender": genders.get(speaker, ""), "source": f"{source} {part.name}"}


_OF_AGE = 18  # years; of the speakers of speechocean762 nobody is 16 to 18


def speechocean762(folder: Path) -> Clips:
    """speechocean762 (OpenSLR 101): WAVE/SPEAKERnnnn/*.WAV; {train,test}/spk2age and spk2gender, a line a speaker.

    English with a Mandarin accent, on telephones: another domain, so all of it is test, whatever part it is published
    in. The children, half of the speakers, are left out.
    """
    home = _home(folder, "WAVE", "train/spk2age", "test/spk2age")
    ages, genders = _of_speakers(home, "spk2age"), _of_speakers(home, "spk2gender")
    for file in sorted((home / "WAVE").glob("SPEAKER*/*")):
        number = file.parent.name.removeprefix("SPEAKER")
        age = ages.get(number, "")
        if not age.isdecimal():
            raise ReaderError(f"{home}: expected the age of {number} in years in spk2age, got {age or 'none'}")
        if file.suffix.lower() == ".wav" and int(age) >= _OF_AGE:
            who = {"speaker": f"SO{number}", "gender": genders.get(number, "").upper()}
            yield file, {**who, "split": "test", "source": "OpenSLR 101, adults"}


def _of_speakers(home: Path, name: str) -> dict[str, str]:
    """What train/NAME and test/NAME say of each speaker: `0036`, white space, a word."""
    files = [home / part / name for part in ("train", "test")]
    cells = [line.split() for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()]
    return {pair[0]: pair[1] for pair in cells if len(pair) == 2}


_GRID_WOMEN = {4, 7, 11, 15, 16, 18, 20, 21, 22, 23, 24, 25, 29, 31, 33, 34}
_GRID_VALID, _GRID_TEST = {22, 23, 24, 25}, {10, *range(26, 35)}


def grid(folder: Path) -> Clips:
    """GRID (Zenodo 3625687): audio_25k/sN/*.wav, and beside it sN/*.mpg, the videos, where those are there.

    Talkers 10 and 26 to 34 are test, 22 to 25 valid, the others train. But of talkers 1 and 4 there are clips in each
    split, a tenth test and a twentieth valid, as a hash of the name deals them, for a study of one talker, whose prior
    has learned the talker that it is tested on. Who tests on people that were never heard leaves those two out.

    The published audio is cut to the command, 1 to 2.5 s, while the video takes 3 s: what runs along with the picture
    is the sound in the video file.
    """
    home = _home(folder, "audio_25k")
    for file in sorted((home / "audio_25k").glob("s*/*.wav")):
        talker = file.parent.name
        number = int(talker[1:]) if talker[1:].isdecimal() else 0
        if not 1 <= number <= 34:
            raise ReaderError(f"{file.parent}: expected the folder of a talker, s1 to s34")
        video = home / talker / f"{file.stem}.mpg"
        who = {"speaker": f"GRID_{talker}", "gender": "F" if number in _GRID_WOMEN else "M"}
        seen = video.relative_to(folder).as_posix() if video.is_file() else ""
        split = _grid_split(number, file.stem)
        yield file, {**who, "split": split, "video": seen, "source": "GRID (Zenodo 3625687)"}


def _grid_split(number: int, clip: str) -> str:
    if f"GRID_s{number}" in ONE_TALKER["grid"]:
        return {0: "test", 1: "test", 2: "valid"}.get(zlib.crc32(clip.encode()) % 20, "train")
    return "test" if number in _GRID_TEST else "valid" if number in _GRID_VALID else "train"


def emodb(folder: Path) -> Clips:
    """EmoDB: wav/SSTTTEV.wav with the speaker SS. Speakers 15 (man) and 16 (woman) are test, the other eight train."""
    for file in sorted((_home(folder, "wav") / "wav").glob("*.wav")):
        number = file.stem[:2]
        split = "test" if number in ("15", "16") else "train"
        gender = "F" if number in ("08", "09", "13", "14", "16") else "M"
        yield file, {"speaker": f"EMO{number}", "gender": gender, "split": split, "source": "EmoDB"}


# the 28 training speakers and the 2 test speakers, by VCTK's speaker-info.txt
_VOICEBANK_WOMEN = {f"p{n}" for n in (228, 230, 231, 233, 236, 239, 244, 250, 257, 267, 268, 269, 276, 277, 282)}


def voicebank_demand(folder: Path) -> Clips:
    """VoiceBank-DEMAND: {clean,noisy}_{trainset_28spk,testset}_wav/pNNN_NNN.wav, pairs of one name.

    p232 and p257 are test, as published; of the 28 training speakers p226 (man) and p287 (man) are valid, the usual
    choice. A file without its partner is an error.
    """
    home = _home(folder, "clean_testset_wav", "noisy_testset_wav")
    for part in ("trainset_28spk_wav", "testset_wav"):
        sides = {side: sorted((home / f"{side}_{part}").glob("*.wav")) for side in ("clean", "noisy")}
        if alone := {f.name for f in sides["clean"]} ^ {f.name for f in sides["noisy"]}:
            expected = f"expected a clean and a noisy file of each name in {part}"
            raise ReaderError(f"{home}: {expected}, got one only of {min(alone)}")
        for side, file in ((side, file) for side, files in sides.items() for file in files):
            speaker = file.stem.split("_")[0]
            split = "test" if part == "testset_wav" else "valid" if speaker in ("p226", "p287") else "train"
            who = {"speaker": speaker, "gender": "F" if speaker in _VOICEBANK_WOMEN else "M", "split": split}
            yield file, {**who, "kind": f"pair-{side}", "source": "Edinburgh DataShare 10283/2791"}


# three speakers of each of the eight dialect regions: testset.doc of the corpus
_TIMIT_CORE = """
    mdab0 mwbt0 felc0  mtas1 mwew0 fpas0  mjmp0 mlnt0 fpkt0  mlll0 mtls0 fjlm0
    mbpm0 mklt0 fnlp0  mcmj0 mjdh0 fmgd0  mgrt0 mnjm0 fdhc0  mjln0 mpam0 fmld0
"""


def timit(folder: Path) -> Clips:
    """TIMIT (LDC93S1): {TRAIN,TEST}/DRn/SPEAKER/SENTENCE.WAV, in either case, NIST SPHERE or RIFF.

    TRAIN is train; of TEST the 24 speakers of the core test set are test and the others valid. The two SA sentences,
    which every speaker reads, are left out, so that no sentence is both learnt and tested.
    """
    files: dict[tuple[str, ...], Path] = {}
    for file in sorted(folder.rglob("*")):
        parts = tuple(part.lower() for part in file.parts[-4:])
        is_sentence = len(parts) == 4 and parts[0] in ("train", "test") and parts[1].startswith("dr")
        if is_sentence and file.suffix.lower() == ".wav" and not parts[3].startswith("sa"):
            # a converted copy, SX1.WAV.wav, sorts after its original and takes its place
            files[(*parts[:3], parts[3].split(".")[0])] = file
    for (part, _, speaker, _), file in files.items():
        split = "train" if part == "train" else "test" if speaker in _TIMIT_CORE.split() else "valid"
        who = {"speaker": speaker.upper(), "gender": speaker[0].upper()}
        yield file, {**who, "split": split, "source": "TIMIT LDC93S1"}


def wsj0(folder: Path) -> Clips:
    """WSJ0 (LDC93S6A): si_tr_s, si_dt_05 and si_et_05, anywhere below, with SPEAKER/UTTERANCE.wv1 (or .wav, .flac).

    si_tr_s is train, si_dt_05 valid, si_et_05 test. The layout does not tell the speakers' gender, so it is left
    empty. Most copies hold Shorten-compressed .wv1, which libsndfile does not read: convert those to .wav with
    sph2pipe, beside the originals.
    """
    splits = {"si_tr_s": "train", "si_dt_05": "valid", "si_et_05": "test"}
    files: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.rglob("*"), key=lambda f: f.suffix.lower() != ".wv1"):
        part = file.parent.parent.name.lower()
        if part in splits and file.suffix.lower() in (".wv1", ".wav", ".flac"):
            files[part, file.stem.lower()] = file  # a converted file comes later and takes the place of its .wv1
    for (part, _), file in sorted(files.items()):
        yield file, {"speaker": file.parent.name.lower(), "split": splits[part], "source": f"WSJ0 LDC93S6A {part}"}


_CHIME_PLACES = {"bus": "vehicle", "caf": "cafe", "ped": "crowd", "str": "street"}


def chime3(folder: Path) -> Clips:
    """CHiME-3: data/audio/16kHz/{backgrounds,isolated}; channel 5 (it faces the speaker) of each recording.

    Backgrounds are noise: bus (vehicle), cafe, pedestrian area (crowd), street. A recording belongs to one split: of
    the recordings of an environment, sorted by name, every fourth is test, the others train. The `bth` booth
    recordings are speech, the `real` ones noisy speech without a reference; tr05 is train, dt05 valid, et05 test. The
    simulated mixtures are left out: the book mixes its own.
    """
    found = sorted(d for d in folder.rglob("backgrounds") if d.is_dir())
    if not found:
        expected = "expected CHiME-3's data/audio/16kHz/backgrounds below it"
        raise ReaderError(f"{folder}: {expected}, got no folder of that name")
    for place, cls in _CHIME_PLACES.items():
        for i, file in enumerate(sorted(found[0].glob(f"*_{place.upper()}.CH5.wav"))):
            split, source = "test" if i % 4 == 3 else "train", f"CHiME-3 {file.name.split('.')[0]}"
            yield file, {"kind": "noise", "cls": cls, "split": split, "source": source}
    splits = {"tr05": "train", "dt05": "valid", "et05": "test"}
    for file in sorted(found[0].parent.glob("isolated/*/*.CH5.wav")):
        part, place, *rest = file.parent.name.split("_")
        if part in splits and (place == "bth" or rest == ["real"]):
            what = {"kind": "speech"} if place == "bth" else {"kind": "real", "cls": _CHIME_PLACES[place]}
            speaker = file.name.split("_")[0]
            who = {"speaker": speaker, "gender": speaker[0], "split": splits[part]}
            yield file, {**what, **who, "source": f"CHiME-3 {file.parent.name}"}


# --------------------------------------------------------------------------- noise

# The classes of ESC-50 that can lie under speech; single events (a dog, a sneeze) are no background and stay out.
_ESC_CLASSES = {
    "home": ("vacuum_cleaner", "washing_machine", "keyboard_typing", "toilet_flush", "pouring_water"),
    "vehicle": ("engine", "train", "airplane", "helicopter"),
    "street": ("siren", "car_horn"),
    "weather": ("rain", "wind", "thunderstorm", "sea_waves"),
    "crowd": ("clapping",),
}


def esc50(folder: Path) -> Clips:
    """ESC-50: meta/esc50.csv and audio/*.wav, five seconds each; the classes that can lie under speech, by our names.

    Folds 1-3 are train, 4 valid, 5 test. Four recordings have clips in two folds; all clips of a recording follow its
    lowest fold. Clips of which more than a tenth is padding (exact zeros) are left out, since a mixture's SNR would
    count the padding.
    """
    home = _home(folder, "meta", "audio")
    ours = {theirs: cls for cls, names in _ESC_CLASSES.items() for theirs in names}
    with (home / "meta" / "esc50.csv").open(encoding="utf-8", newline="") as file:
        clips = list(csv.DictReader(file))
    fold: dict[str, int] = {}
    for clip in clips:
        fold[clip["src_file"]] = min(fold.get(clip["src_file"], 5), int(clip["fold"]))
    for clip in clips:
        wav, cls, recording = home / "audio" / clip["filename"], ours.get(clip["category"]), clip["src_file"]
        if cls is not None and _padding(wav) <= 0.1:
            about = {"kind": "noise", "cls": cls, "split": {4: "valid", 5: "test"}.get(fold[recording], "train")}
            licence = "CC BY 3.0" if clip["esc10"] == "True" else "CC BY-NC 3.0"
            yield wav, {**about, "licence": licence, "source": f"ESC-50 freesound {recording}"}


READERS: Mapping[str, Reader] = {
    "mini-librispeech": Reader(mini_librispeech, "CC BY 4.0", "LibriSpeech/train-clean-5/19/198/19-198-0000.flac"),
    "emodb": Reader(emodb, "CC0 1.0", "wav/03a01Fa.wav"),
    "esc-50": Reader(esc50, "CC BY-NC 3.0", "audio/1-100032-A-0.wav"),
    "voicebank-demand": Reader(voicebank_demand, "CC BY 4.0", "clean_testset_wav/p232_001.wav"),
    "timit": Reader(timit, "LDC User Agreement", "TRAIN/DR1/FCJF0/SI1027.WAV"),
    "wsj0": Reader(wsj0, "LDC User Agreement", "si_tr_s/011/011c0201.wv1"),
    "chime3": Reader(chime3, "LDC User Agreement (LDC2017S24)", "data/audio/16kHz/backgrounds/BGD_1_CAF.CH5.wav"),
    "librispeech": Reader(librispeech, "CC BY 4.0", "LibriSpeech/train-clean-100/19/198/19-198-0000.flac"),
    "speechocean762": Reader(speechocean762, "CC BY 4.0", "WAVE/SPEAKER0036/000360034.WAV"),
    "grid": Reader(grid, "CC BY 4.0", "audio_25k/s1/bbaf2n.wav"),
}


# -------------------------------------------------------------------------- babble


def add_babble(folder: Path, table: pd.DataFrame, files: Mapping[str, int], seconds: float) -> pd.DataFrame:
    """The table with babble added: noise made of its own talkers, written to folder/babble/*.flac.

    files says how many files of `seconds` each split gets. A split's babble is a sum of its own first eight talkers: so
    no prior has learnt from the talkers of the test babble, and no talker is heard in two splits.

    Raises ReaderError when a split has fewer than two talkers.
    """
    speech = table[table["kind"] == "speech"]
    corpus, licence = speech["corpus"].iloc[0], speech["licence"].iloc[0]
    rows = []
    for split, count in files.items():
        own = speech[speech["split"] == split]
        talkers = sorted(own["speaker"].unique(), key=_number)[:8]
        if len(talkers) < 2:
            raise ReaderError(f"{corpus}: babble needs two talkers of the split {split}, got {len(talkers)}")
        length = int(seconds * SAMPLE_RATE)
        voices = [_voice(folder, own[own["speaker"] == t]["path"], count * length) for t in talkers]
        for i, x in enumerate(babble(voices).split(length)):
            file = folder / "babble" / f"{corpus}_{split}_{i}.flac"
            audio.write(file, x, SAMPLE_RATE)
            source = f"sum of the talkers {' '.join(talkers)} of {corpus}"
            about = {"cls": "babble", "split": split, "licence": licence, "source": source}
            rows.append(_row(folder, file, corpus, kind="noise", **about))
    return pd.concat([table, pd.DataFrame(rows, columns=list(FIELDS))], ignore_index=True)


def babble(voices: list[torch.Tensor]) -> torch.Tensor:
    """The sum (N,) of voices (N,) made equally loud; its root mean square is 0.05, or its peak 0.9 if that would clip.

    >>> babble([torch.ones(4), -3 * torch.ones(4), 2 * torch.ones(4)])
    tensor([0.0500, 0.0500, 0.0500, 0.0500])
    """
    total = torch.stack([voice / voice.square().mean().sqrt() for voice in voices]).sum(0)
    return total * min(0.05 / total.square().mean().sqrt(), 0.9 / total.abs().max())


def _voice(folder: Path, paths: Iterable[str], samples: int) -> torch.Tensor:
    """A talker's utterances on end, again from the first when they are used up, `samples` long."""
    pieces: list[torch.Tensor] = []
    for path in cycle(paths):
        if sum(len(p) for p in pieces) >= samples:
            return torch.cat(pieces)[:samples]
        pieces.append(audio.read(folder / path)[0].mean(0))
    raise ReaderError(f"{folder}: a babble talker has no utterance")


# ------------------------------------------------------------------------- helpers


def _home(folder: Path, *marks: str) -> Path:
    """The folder itself, or a folder in it, that holds all of `marks`: archives often wrap everything in one folder."""
    for home in (folder, *sorted(d for d in folder.iterdir() if d.is_dir())):
        if all((home / mark).exists() for mark in marks):
            return home
    inside = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
    raise ReaderError(f"{folder}: expected {' and '.join(marks)} in it or one folder below, got {inside}")


def _row(folder: Path, file: Path, corpus: str, **about: str) -> dict[str, object]:
    try:
        info = soundfile.info(file)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        hint = " Shorten-compressed SPHERE is not readable: convert it with sph2pipe -f wav."
        told = f"expected an audio file that libsndfile reads, got {error}."
        raise ReaderError(f"{file}: {told}{hint if file.suffix.lower() == '.wv1' else ''}") from error
    fixed = {"path": file.relative_to(folder).as_posix(), "corpus": corpus, "kind": "speech"}
    return {**dict.fromkeys(FIELDS, ""), **fixed, "seconds": info.frames / info.samplerate, **about}


def _librispeech_genders(file: Path) -> dict[str, str]:
    """SPEAKERS.TXT: `19 | F | train-clean-100 | 25.19 | name`, comments after a semicolon."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if not line.startswith(";")]
    return {c[0]: c[1] for c in cells if len(c) > 1 and c[1] in ("F", "M")}


def _number(speaker: str) -> tuple[int, str]:
    """Sorts 19 before 118, and names after numbers by their letters."""
    return (int(speaker), "") if speaker.isdecimal() else (10**9, speaker)


def _padding(wav: Path) -> float:
    """The part of a file's samples that are exactly zero."""
    samples, _ = soundfile.read(wav, dtype="int16", always_2d=True)
    return float((samples == 0).all(1).mean()) if len(samples) else 1.0
