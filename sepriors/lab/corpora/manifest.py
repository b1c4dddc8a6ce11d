"""The manifest: one row a file, the one interface between corpora on the disk and everything that uses them."""

import csv
import difflib
import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import pandas as pd
import torch

from sepriors.files import atomic_write
from sepriors.lab.corpora.store import Decoded, decode
from sepriors.signal import audio

REQUIRED = ("path", "corpus", "kind", "cls", "speaker", "gender", "split", "seconds", "licence", "source")
OPTIONAL = ("video",)  # '' where there is none; a manifest without the column has none, and is written without it
FIELDS = REQUIRED + OPTIONAL
SAMPLE_RATE = 16_000  # Hz; every method of the book works at this rate

# A field with a closed vocabulary, and its words. `real` is noisy speech that has no clean reference.
WORDS = {
    "kind": ("speech", "noise", "pair-clean", "pair-noisy", "real"),
    "gender": ("F", "M", ""),
    "split": ("train", "valid", "test"),
}
# A field that anybody's corpus may extend, and the names that this project knows, whether or not they are there.
KNOWN = {
    "corpus": (
        "mini-librispeech", "emodb", "esc-50", "voicebank-demand", "timit", "wsj0", "chime3", "librispeech",
        "speechocean762", "rhasspy", "voices", "noise", "grid", "synthetic", "synthetic-de",
    ),
    "cls": (
        "home", "vehicle", "street", "weather", "crowd", "cafe", "office", "babble", "nature", "animal", "human",
        "white", "pink", "modulated",
    ),
}  # fmt: skip
NAME = "manifest.csv"
OWNER = "audio-folder.txt"  # beside a manifest whose audio stays in a folder of its owner: one line, that folder

# Corpora that take their readers from one project, which numbers them: a reader of one may be a reader of the other.
SAME_SPEAKERS = {"mini-librispeech": "LibriSpeech", "librispeech": "LibriSpeech"}
# Speakers of whom a study has a prior of their own: their clips are split, since what they say is all there is of them.
ONE_TALKER = {"grid": ("GRID_s1", "GRID_s4")}
# How Freesound's number stands in the name of an ESC-50 clip, 1-34094-A, in an address there, and in a file's name
FREESOUND = re.compile(
    r"(?<!\d)[1-5]-(\d+)-[A-Z](?![A-Za-z0-9])|freesound(?:\.org/people/[^/]+/sounds/| )(\d+)|(?<!\d)(\d+)__[\w-]+__"
)
TALKERS = re.compile(r"sum of the talkers (.+) of (\S+)")  # what the source of babble says


class CorpusError(ValueError):
    """A corpus that is not what it should be; the message names what was expected and what came."""


class ManifestError(CorpusError):
    """A manifest that is missing, damaged or untrue."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not among the known ones, with the nearest of them.

    >>> unknown("split", "tets", ["train", "test"])
    "unknown split 'tets'; did you mean 'test'? There are: test, train"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    shown = ", ".join(n or "''" for n in names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"unknown {what} {name!r}{hint} There are: {shown or 'none'}"


@dataclass(frozen=True, eq=False)
class Corpora:
    """Speech and noise to work with: a table of files, the folder their paths start from, and where they came from.

    table has the columns FIELDS, text except `seconds`; `video` is the path of the picture or video that belongs to the
    audio, from the same folder, '' where there is none. origin is 'folder', 'fetched' or 'synthetic'; note is a
    sentence to show beside any result, empty when there is nothing to say.
    """

    root: Path
    table: pd.DataFrame
    origin: Literal["folder", "fetched", "synthetic"]
    note: str = ""

    @property
    def is_real(self) -> bool:
        """Whether people spoke it: claims are judged on real speech only."""
        return self.origin != "synthetic"

    def select(self, **criteria: str | Iterable[str]) -> pd.DataFrame:
        """The rows whose fields have the given values; a list of values means any of them.

        A selection that finds nothing is an empty table: a combination that no file has, a word of WORDS, a name of
        KNOWN. Raises ValueError for a field that does not exist, or a value that is neither there nor known, with the
        nearest name.
        """
        rows = self.table
        for field, wanted in criteria.items():
            if field not in FIELDS or field == "seconds":
                raise CorpusError(unknown("field", field, set(FIELDS) - {"seconds"}))
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            known = {*self.table[field], *WORDS.get(field, ()), *KNOWN.get(field, ())}
            for value in values:
                if value not in known:
                    raise CorpusError(unknown(field, value, known))
            rows = rows[rows[field].isin(values)]
        return rows.reset_index(drop=True)

    def read(self, path: str) -> torch.Tensor:
        """The samples (N,) of one file of the table, float32, at 16 kHz, the mean of its channels.

        Raises ValueError for a path that the table does not have, and AudioError for a file that is missing or damaged.
        """
        if not (self.table["path"] == path).any():
            raise CorpusError(unknown("path", path, self.table["path"]))
        x, rate = audio.read(self.root / path)
        return audio.resample(x.mean(0), rate, SAMPLE_RATE)

    def decoded(self, rows: pd.DataFrame, *, progress: bool = False) -> Decoded:
        """The samples of many files, as `read` has them to 16 bits, decoded once and kept in the cache."""
        return decode(self.root, rows["path"], self.read, progress=progress)

    def describe(self) -> pd.DataFrame:
        """Files, minutes and speakers of each corpus, kind, class and split."""
        groups = self.table.groupby(["corpus", "kind", "cls", "split"], sort=True)
        return groups.agg(
            files=("path", "size"),
            minutes=("seconds", lambda s: round(s.sum() / 60, 2)),
            speakers=("speaker", lambda s: s[s != ""].nunique()),
        ).reset_index()

    def __str__(self) -> str:
        names = ", ".join(sorted(self.table["corpus"].unique()))
        hours = self.table["seconds"].sum() / 3600
        files = len(self.table)
        return f"{self.origin} corpora in {self.root}: {files} files, {hours:.2f} h ({names}). {self.note}".strip()


def read_manifest(root: str | os.PathLike[str], *, check_files: bool = False) -> pd.DataFrame:
    """The table of `root`/manifest.csv, with the columns FIELDS in order; further columns are left out.

    Every path, of audio and of video, is relative and stays inside its base (see `base`). With check_files every file
    must be there. Raises ManifestError, which names the line and what was expected there.
    """
    where = Path(root) / NAME
    if not where.is_file():
        columns = ", ".join(REQUIRED)
        raise ManifestError(f"{where}: no such file; a corpus folder holds {NAME} with the columns {columns}")
    table = _valid(_parsed(where), str(where))
    for field, what in (("path", "files"), ("video", "videos")) if check_files else ():
        named = [name for name in table[field] if name]
        absent = [name for name in named if not os.path.isfile(base(root) / name)]
        if absent:
            several = f"{len(absent)} of its {len(named)} {what}"
            raise ManifestError(f"{where}: {several} are not there, the first is {absent[0]}")
    return table


def _parsed(where: Path) -> pd.DataFrame:
    """The rows of a comma-separated file as text, each named by its line in the file.

    pandas would fill a short row with NaN, and take the first column of long ones for their names.
    """
    expected = "expected a comma-separated table in UTF-8"
    try:
        reader = csv.reader(io.StringIO(where.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestError(f"{where}, line {line}: {expected}, got {error}") from error
    except csv.Error as error:
        raise ManifestError(f"{where}, line {reader.line_num}: {expected}, got {error}") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ManifestError(f"{where}, line 1: has the column {twice[0]!r} twice; expected each once")
    for line, row in rows:
        if len(row) != len(header):
            raise ManifestError(f"{where}, line {line}: expected {len(header)} values, got {len(row)}")
    lines = [line for line, _ in rows]
    return pd.DataFrame([row for _, row in rows], index=lines, columns=header, dtype=str)


def write_manifest(root: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write `root`/manifest.csv, whole or not at all; an optional column only where some row has it.

    Raises ManifestError, as `read_manifest` does.
    """
    where = Path(root) / NAME
    lines = range(2, len(table) + 2)  # below the header
    table = _valid(table.set_axis(lines), str(where)).assign(seconds=lambda t: t["seconds"].map("{:.3f}".format))
    table = table.drop(columns=[field for field in OPTIONAL if (table[field] == "").all()])
    with atomic_write(where) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def base(root: str | os.PathLike[str]) -> Path:
    """The folder that the paths of `root`'s manifest start from: `root`, or the owner's folder that OWNER names."""
    owner = Path(root) / OWNER
    if not owner.is_file():
        return Path(root)
    folder = Path(owner.read_text(encoding="utf-8", errors="replace").strip())
    if not (folder.is_absolute() and os.path.isdir(folder)):
        expected = "expected the full path of the folder with the audio"
        raise ManifestError(f"{owner}: {expected}, got {str(folder)!r}, which is none")
    return folder


def gather(root: str | os.PathLike[str], names: Iterable[str] | None = None) -> pd.DataFrame:
    """One table of the manifests `root`/NAME/manifest.csv, of those names or of all, then after `root`'s own.

    Paths start from `root`; those of a corpus that stays in its owner's folder are absolute. A file that two manifests
    list is there once, as the one of the folder below has it. The table is empty when there is no manifest. Raises
    ManifestError, also for a file that two manifests give to different splits.
    """
    root = Path(root)
    homes = [root] if names is None and (root / NAME).is_file() else []
    below = sorted(p.parent for p in root.glob(f"*/{NAME}") if not p.parent.name.startswith("."))
    homes += [home for home in below if names is None or home.name in names]
    empty = pd.DataFrame({field: pd.Series(dtype=float if field == "seconds" else str) for field in FIELDS})
    table = pd.concat([empty, *(_from(root, home) for home in homes)], ignore_index=True)
    _refuse_torn("file", table["path"], table["split"])
    return table.drop_duplicates("path", keep="last", ignore_index=True)


def _from(root: Path, home: Path) -> pd.DataFrame:
    """The manifest of a folder, its files named as they are reached from `root`."""
    start = home.relative_to(root) if base(home) == home else base(home)
    table = read_manifest(home)
    return table.assign(
        path=[(start / path).as_posix() for path in table["path"]],
        video=[(start / path).as_posix() if path else "" for path in table["video"]],
    )


def check_disjoint(table: pd.DataFrame) -> None:
    """Raise ManifestError when a speaker or a noise recording is in two splits.

    A speaker is one of a corpus, or of those of SAME_SPEAKERS together; of the speakers of ONE_TALKER no clip may be in
    two splits. A noise recording is what Freesound's number names, in any corpus, else what `source` does. Babble whose
    source is a 'sum of' talkers is none: those that it names must not be heard in another split, alone or in babble.
    """
    summed = table["source"].str.startswith("sum of ")
    noises = table[(table["kind"] == "noise") & ~summed]
    voices = table[(table["kind"] != "noise") & (table["speaker"] != "")]
    heard = pd.concat([pd.DataFrame({"who": _speakers(voices), "split": voices["split"]}), _babblers(table[summed])])
    _refuse_torn("speaker", heard["who"], heard["split"])
    _refuse_torn("recording", recordings(noises), noises["split"])


def recordings(noises: pd.DataFrame) -> pd.Series:
    """What each row of noise was cut from: Freesound's number where its path or source tells it, else its source.

    >>> rows = [("esc_rain_4-181286-A.flac", "noise", "a mirror"), ("x.flac", "noise", "mine")]
    >>> list(recordings(pd.DataFrame(rows, columns=["path", "corpus", "source"])))
    ['Freesound 181286', 'noise: mine']
    """
    names = []
    for path, corpus, source in zip(noises["path"], noises["corpus"], noises["source"]):
        found = FREESOUND.search(f"{path} {source}")
        names.append(f"Freesound {next(filter(None, found.groups()))}" if found else f"{corpus}: {source}")
    return pd.Series(names, index=noises.index, dtype=object)


def _speakers(voices: pd.DataFrame) -> pd.Series:
    """Who is heard in each row, and of the speakers of ONE_TALKER which clip of theirs it is."""
    names = []
    for path, corpus, speaker in zip(voices["path"], voices["corpus"], voices["speaker"]):
        clip = f", clip {PurePosixPath(path).stem}" if speaker in ONE_TALKER.get(corpus, ()) else ""
        names.append(f"{SAME_SPEAKERS.get(corpus, corpus)}: {speaker}{clip}")
    return pd.Series(names, index=voices.index, dtype=object)


def _babblers(sums: pd.DataFrame) -> pd.DataFrame:
    """The talkers that sums of talkers name, and the split of each."""
    rows = []
    for source, split in zip(sums["source"], sums["split"]):
        if found := TALKERS.search(source):
            corpus = SAME_SPEAKERS.get(found[2], found[2])
            rows += [(f"{corpus}: {talker}", split) for talker in found[1].split()]
    return pd.DataFrame(rows, columns=["who", "split"])


def _refuse_torn(what: str, names: pd.Series, splits: pd.Series) -> None:
    places = pd.DataFrame({"name": names, "split": splits}).drop_duplicates()
    torn = places[places["name"].duplicated(keep=False)].sort_values(["name", "split"])
    if len(torn):
        name = torn["name"].iloc[0]
        found = ", ".join(torn["split"][torn["name"] == name])
        raise ManifestError(f"{what} {name!r} is in the splits {found}; expected one only")


def _valid(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table, whose rows are named by their lines, with the columns FIELDS, `seconds` as numbers and rows from 0.

    ManifestError names the first wrong line.
    """
    missing = [field for field in REQUIRED if field not in table.columns]
    if missing:
        raise ManifestError(f"{where}, line 1: lacks the column {', '.join(missing)}; expected {', '.join(REQUIRED)}")
    text = [field for field in FIELDS if field != "seconds"]
    table = table.reindex(columns=list(FIELDS), fill_value="")
    seconds = pd.to_numeric(table["seconds"], errors="coerce").astype(float)
    checks = [(f, table[f].isin(words), f"one of {words}") for f, words in WORDS.items()]
    checks += [
        ("seconds", seconds.map(lambda s: math.isfinite(s) and s > 0), "a length in seconds above 0"),
        ("corpus", table["corpus"] != "", "the name of a corpus"),
        ("path", table["path"].map(_inside), "a relative path inside the corpus folder, with / between its parts"),
        ("path", ~table["path"].duplicated(), "each file once"),
        ("video", table["video"].map(lambda v: v == "" or _inside(v)), "nothing, or a path as that of the audio"),
    ]
    for field, good, expected in checks:
        if not good.all():
            line = good.index[~good.astype(bool)][0]
            raise ManifestError(f"{where}, line {line}: expected {expected} as {field}, got {table.at[line, field]!r}")
    table = table.assign(**{field: table[field].astype(str) for field in text}, seconds=seconds)
    return table.reset_index(drop=True)


def _inside(path: object) -> bool:
    """Whether a path of a manifest stays in its folder, on every system."""
    text = str(path)
    lexical = PurePosixPath(text)
    foreign = "\\" in text or bool(PureWindowsPath(text).drive)
    return bool(text) and "\0" not in text and not lexical.is_absolute() and ".." not in lexical.parts and not foreign
