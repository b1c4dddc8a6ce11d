"""Getting corpora onto the disk: downloads that resume, safe unpacking, folders of the user, the choice among them.

Under the cache ($SEPRIORS_CACHE, else the system's cache folder) each corpus has one folder with its own manifest:
corpora/NAME/manifest.csv. It appears there whole, by a rename, so a corpus is either complete or absent.
"""

import errno
import hashlib
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import pandas as pd
import requests
import soundfile
from filelock import FileLock
from tqdm import tqdm

from sepriors.files import scratch_folder
from sepriors.lab.corpora import synthetic
from sepriors.lab.corpora.manifest import (
    NAME,
    OWNER,
    SAMPLE_RATE,
    Corpora,
    CorpusError,
    check_disjoint,
    gather,
    read_manifest,
    unknown,
    write_manifest,
)
from sepriors.lab.corpora.readers import READERS, add_babble, read_layout
from sepriors.lab.corpora.store import cache_dir
from sepriors.signal import audio

WAITS = (1.0, 2.0, 4.0)  # seconds before each further attempt of a download
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
PIECE = 1 << 13  # bytes; what a broken connection may lose
BABBLE = {"mini-librispeech"}  # corpora with enough talkers in each split to make babble of
BABBLE_FILES, BABBLE_SECONDS = {"train": 3, "valid": 1, "test": 2}, 60.0
EXPANSION = 100  # of an archive that is unpacked; recordings shrink a few times, a bomb up to a thousand times a layer
# What reading a damaged archive may raise, and the error numbers that are its fault rather than the disk's
DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError,
    ValueError, RuntimeError, OSError,
)  # fmt: skip
UNREADABLE = (None, errno.EINVAL, errno.ENAMETOOLONG)
ROOM = "Free some space, or set SEPRIORS_CACHE, and run again."
NOTICES = ("LICENSE*", "LICENCE*", "README*", "SPEAKERS*")  # kept beside the audio, since licences ask for attribution


class FetchError(CorpusError):
    """A corpus that could not be downloaded or unpacked; the message says what to do."""


def registry(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What can be downloaded: registry.toml of this package, or another file of the same form.

    >>> list(registry())
    ['mini-librispeech', 'emodb', 'esc-50', 'voicebank-demand', 'librispeech', 'speechocean762', 'grid']
    """
    source = Path(path) if path else Path(__file__).with_name("registry.toml")
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise FetchError(f"{source}: expected a registry of downloads in TOML, got {error}") from error


# ---------------------------------------------------------------------- the choice


def open_corpora(
    corpus: str | os.PathLike[str] = "auto", *, registry_path: str | os.PathLike[str] | None = None
) -> Corpora:
    """The corpora to work with.

    'auto' takes the folder that $SEPRIORS_DATA names; where it names none, what the cache holds, if that has speech and
    noise; a download of what the registry marks `auto`, if the network answers within 5 s; else synthetic speech.
    'synthetic' takes that at once, and a path takes that folder (with a manifest.csv, with folders that have one, or
    with both).

    Raises CorpusError for a folder without a manifest, also where $SEPRIORS_DATA names it, for one that is damaged, and
    for a cache that cannot be written to.
    """
    if corpus == "synthetic":
        return _synthetic("asked for")
    if corpus != "auto":
        return _folder(Path(corpus).expanduser())
    if data := os.environ.get("SEPRIORS_DATA"):
        named = Path(data).expanduser()
        if not _manifests(named):  # no fall-back: whoever names a folder would take what follows for its recordings
            raise CorpusError(
                f"{named}: expected a folder with a {NAME}, or with folders that have one, as SEPRIORS_DATA names it; "
                f"got {'one without' if named.is_dir() else 'no folder'}"
            )
        return _folder(named)
    root = cache_dir() / "corpora"
    reasons = [] if _enough(gather(root)) else _download_auto(registry_path)
    found = gather(root)
    if _enough(found):
        return Corpora(root, found, "fetched", f"Incomplete: {'; '.join(reasons)}." if reasons else "")
    return _synthetic("; ".join([*reasons, f"the cache ({root}) has no corpora with speech and noise"]))


def _download_auto(registry_path: str | os.PathLike[str] | None) -> list[str]:
    """Download what is marked `auto` as far as it goes; the reasons why it did not."""
    known = registry(registry_path)
    names = [name for name, entry in known.items() if entry.get("auto")]
    url = known[names[0]]["archives"][0]["urls"][0]
    if not _answers(url, seconds=5.0):
        return [f"the network did not answer within 5 s ({url})"]
    reasons = []
    for name in names:
        try:
            fetch(name, registry_path=registry_path)
        except CorpusError as error:
            reasons.append(str(error))
    return reasons


def _answers(url: str, seconds: float) -> bool:
    """Whether a server answers; in a thread, since looking up a name has no time limit of its own."""
    answered = threading.Event()

    def ask() -> None:
        try:
            if requests.head(url, timeout=seconds, allow_redirects=True).status_code < 400:
                answered.set()
        except requests.RequestException as error:
            logging.getLogger(__name__).debug("no answer from %s: %s", url, error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def _manifests(root: Path) -> bool:
    return (root / NAME).is_file() or any(not p.parent.name.startswith(".") for p in root.glob(f"*/{NAME}"))


def _folder(root: Path) -> Corpora:
    if not _manifests(root):
        read_manifest(root)  # raises what says how a corpus folder looks
    return Corpora(root, gather(root), "folder")


def _enough(table: pd.DataFrame) -> bool:
    return bool((table["kind"] == "speech").any() and (table["kind"] == "noise").any())


def _synthetic(why: str) -> Corpora:
    cache = cache_dir()
    try:
        root = synthetic.build(cache)
    except OSError as error:
        raise _unwritable(error, cache) from error
    note = f"Synthetic speech and noise ({why}): these figures show that the code runs, and say nothing of real speech."
    return Corpora(root, read_manifest(root), "synthetic", note)


# ------------------------------------------------------------------------ fetching


def fetch(name: str, *, registry_path: str | os.PathLike[str] | None = None) -> Corpora:
    """Download a corpus, unless it is there, and return it.

    It goes to corpora/NAME of the cache, as 16-kHz mono audio with a manifest; the archives are deleted once it is
    complete. registry_path is another registry.toml. An interrupted download goes on where it stopped, also in a later
    run.

    Raises FetchError, which names the address or file and says what to do.
    """
    known = registry(registry_path)
    if name in READERS and name not in known:
        raise FetchError(f"{name} cannot be downloaded, its licence forbids it: `sepriors fetch {name} --from FOLDER`")
    if name not in known:
        raise FetchError(unknown("corpus", name, known))
    root = _made(cache_dir() / "corpora")
    with _lock(root, name):
        if not (root / name / NAME).is_file():
            _absent(root / name)
            _install(name, known[name]["archives"], root)
    return Corpora(root, gather(root, [name]), "fetched")


def import_folder(name: str, folder: str | os.PathLike[str]) -> Corpora:
    """Take a corpus that the user owns (TIMIT, WSJ0, CHiME-3, or any of READERS, as published) where it lies.

    Nothing is copied: corpora/NAME of the cache gets a manifest, and beside it the one-line file audio-folder.txt with
    the folder that the paths start from. An earlier import is replaced. Raises CorpusError when the folder does not
    have the layout of that corpus.
    """
    if name not in READERS:
        raise CorpusError(unknown("corpus", name, READERS))
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise CorpusError(f"{folder}: expected the folder that holds {name}, got {got}")
    table = read_layout(name, folder)
    check_disjoint(table)
    root = _made(cache_dir() / "corpora")
    home = root / name
    with _lock(root, name):
        if not (home / OWNER).is_file():
            _absent(home)
        with _staging(root, name) as stage:
            write_manifest(stage, table)
            (stage / OWNER).write_text(f"{folder}\n", encoding="utf-8")
            home.mkdir(exist_ok=True)
            for file in (OWNER, NAME):
                os.replace(stage / file, home / file)
    return Corpora(root, gather(root, [name]), "folder")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(error, folder) from error
    return folder


def _unwritable(error: OSError, folder: Path) -> Exception:
    """A clear error for a folder that cannot be made or written to, or whose disk is full."""
    clear = FetchError(f"{folder}: expected a folder to write to ({error.strerror}); set SEPRIORS_CACHE to one")
    full = _disk_full(error, folder)
    return clear if full is error else full


def _lock(root: Path, name: str) -> FileLock:
    """Chapters run in parallel: one downloads, the others wait for it."""
    return FileLock(root / f".{name}.lock")


def _absent(home: Path) -> None:
    if home.exists():
        raise FetchError(f"{home} exists but is not a corpus that was fetched; move it away, then fetch again")


@contextmanager
def _staging(root: Path, name: str) -> Iterator[Path]:
    """A folder beside the final one; a disk that is full is told of."""
    try:
        with scratch_folder(root, f".staging-{name}") as stage:
            yield stage
    except OSError as error:
        raise _disk_full(error, root) from error


def _install(name: str, archives: list[dict[str, Any]], root: Path) -> None:
    downloads, progress = root / ".downloads" / name, sys.stderr.isatty()
    files = [download(archive, downloads, progress=progress) for archive in archives]
    with _staging(root, name) as stage:
        raw, done = stage / "raw", stage / "done"
        for file in files:
            unpack(file, raw)
        table = _settle(read_layout(name, raw), raw, done, progress)
        if name in BABBLE:
            table = add_babble(done, table, BABBLE_FILES, BABBLE_SECONDS)
        check_disjoint(table)
        _keep_notices(raw, done)
        write_manifest(done, table)
        os.rename(done, root / name)
    shutil.rmtree(downloads)


def _settle(table: pd.DataFrame, raw: Path, done: Path, progress: bool) -> pd.DataFrame:
    """Move 16-kHz mono files from raw to done as they are, and write the others there as 16-kHz mono FLAC.

    Videos are moved as they are.
    """
    rows = []
    for row in tqdm(table.to_dict("records"), desc="16 kHz", unit="file", disable=not progress):
        source, target = raw / row["path"], done / row["path"]
        info = soundfile.info(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if row["video"]:
            (done / row["video"]).parent.mkdir(parents=True, exist_ok=True)
            os.replace(raw / row["video"], done / row["video"])
        if (info.samplerate, info.channels) == (SAMPLE_RATE, 1):
            os.replace(source, target)
        else:
            x, rate = audio.read(source)
            target = target.with_suffix(".flac")
            # Resampling may overshoot full scale by a little. A pair must keep its gain, so the peak is cut, and the
            # level is not lowered.
            audio.write(target, audio.resample(x.mean(0), rate, SAMPLE_RATE).clamp(-1, 1), SAMPLE_RATE)
            source.unlink()
        rows.append({**row, "path": target.relative_to(done).as_posix()})
    return pd.DataFrame(rows, columns=table.columns)


def _keep_notices(raw: Path, done: Path) -> None:
    for notice in (file for pattern in NOTICES for depth in ("", "*/") for file in raw.glob(depth + pattern)):
        if notice.is_file():
            target = done / notice.relative_to(raw)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(notice, target)


# ----------------------------------------------------------------------- downloads


def download(archive: dict[str, Any], folder: str | os.PathLike[str], *, progress: bool = False) -> Path:
    """The archive in `folder`: the one there if its hash is right, else downloaded from the first address with it.

    archive: name, urls and, where known, bytes and sha256 or md5, as in registry.toml. A file of the right name that
    the user put there counts as downloaded; one with a wrong hash is replaced only by one with the right hash. What has
    come of a download that breaks off stays as NAME.part, from where another goes on. Raises FetchError.
    """
    name, folder = archive["name"], _made(Path(folder))
    path, part = folder / name, folder / f"{name}.part"
    if path.exists() and not _fault(path, archive):
        return path
    failures = []
    for url in archive["urls"]:
        try:
            _resumed(url, part, progress)
            if fault := _fault(part, archive):
                part.replace(folder / f"{name}.wrong")
                raise FetchError(f"{url}: {fault}; it is set aside as {name}.wrong.")
            return part.replace(path)
        except FetchError as error:
            failures.append(str(error))
        except OSError as error:
            raise _disk_full(error, folder) from error
    by_hand = f"Or download {name} by hand into {folder} and run this again."
    raise FetchError(f"could not download {name}. {' '.join(failures)} {by_hand}")


def _fault(path: Path, archive: dict[str, Any]) -> str:
    """What is wrong with a file, by its hash, or its size where nobody published one; nothing where it is right."""
    for algorithm in ("sha256", "md5"):
        if expected := archive.get(algorithm):
            with path.open("rb") as file:
                got = hashlib.file_digest(file, algorithm).hexdigest()
            return "" if got == expected else f"expected {algorithm}:{expected} but got {got}"
    size, known = path.stat().st_size, archive.get("bytes")
    return "" if known in (None, size) else f"expected {known} bytes, got {size}"


def _resumed(url: str, part: Path, progress: bool) -> None:
    """Bring `part` to the whole file at `url`, from what there is of it; FetchError when it cannot be had."""
    for wait in (*WAITS, None):
        try:
            return _go_on(url, part, progress)
        except (requests.RequestException, ConnectionError) as error:
            if wait is None:
                what = f"{url}: could not be reached, or broke off, {len(WAITS) + 1} times ({_reason(error)})"
                kept = f"what has come is kept ({_size(part)} bytes)"
                raise FetchError(f"{what}. Check the network and run this again: {kept}.") from error
            time.sleep(wait)


def _go_on(url: str, part: Path, progress: bool) -> None:
    """One request, for what is still missing."""
    have = _size(part)
    # identity: a compressed answer would have other byte positions than the file
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        start, total = _extent(answer, url)
        if answer.status_code == 416 and total == have:
            return  # all of it was there
        if answer.status_code == 416 or start > have:
            part.unlink()  # our own part, of another file than the server now has
            raise ConnectionError(f"the server has {total} bytes, the part had {have}")
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True, disable=not progress)
        with part.open("r+b" if start else "wb") as file, bar:
            file.truncate(start)  # 0 where the server does not resume and sends the whole again
            file.seek(start)
            for piece in answer.iter_content(PIECE):
                file.write(piece)
                bar.update(len(piece))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"expected {total} bytes, got {_size(part)}")


def _extent(answer: requests.Response, url: str) -> tuple[int, int | None]:
    """Where an answer starts in the file, and the file's size if the server tells."""
    said = f"the server answered {answer.status_code} {answer.reason}"
    if answer.status_code >= 500:
        raise ConnectionError(said)
    if answer.status_code not in (200, 206, 416):
        raise FetchError(f"{url}: expected the file, {said}.")
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 206 and not (span and span[1]):
        raise FetchError(f"{url}: expected a Content-Range of bytes, got {answer.headers.get('Content-Range')!r}.")
    return int((span and span[1]) or 0), int(span[2]) if span and span[2] else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """The innermost cause: requests wraps it three times."""
    cause: BaseException = error
    while cause.__context__ is not None:
        cause = cause.__context__
    return str(cause) or type(cause).__name__


def _disk_full(error: OSError, folder: Path) -> Exception:
    """A clear error for a full disk, a used-up quota or a limit on a file's size, the same error for anything else."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return FetchError(f"the disk with {folder} is full; what has come is kept. {ROOM}")


# ----------------------------------------------------------------------- unpacking


class Member(NamedTuple):
    """What an archive says of one of its members: its name, its size unpacked in bytes, and whether it is a file or a
    folder; what is neither is a link or a device.
    """

    name: str
    size: int
    is_file: bool
    is_folder: bool

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name.replace("\\", "/"))


def unpack(archive: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Unpack a .zip or .tar(.gz, ...) below `target`.

    Only plain files and folders whose names stay below it, each file once, and no more than EXPANSION times the size of
    the archive or than the disk has room for: with anything else (.., an absolute path, a drive, a link, a device)
    nothing at all is unpacked. Raises FetchError, also for a damaged archive, which is set aside.
    """
    archive, target = Path(archive), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == ".zip" or zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _check_members(archive, target, [_of_zip(member) for member in zipped.infolist()])
                zipped.extractall(target)
        else:
            with tarfile.open(archive) as tarred:
                _check_members(archive, target, [_of_tar(member) for member in tarred.getmembers()])
                safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not before Python 3.11.4
                tarred.extractall(target, **safe)
    except DAMAGE as error:
        if isinstance(error, FetchError) or (isinstance(error, OSError) and error.errno not in UNREADABLE):
            raise
        why = (str(error).splitlines() or ["no data"])[0].rstrip(":")  # tarfile goes on with a line a compression
        archive.replace(archive.with_name(f"{archive.name}.wrong"))
        aside = f"It is set aside as {archive.name}.wrong; run this again."
        raise FetchError(f"{archive}: damaged or cut off ({why}). {aside}") from error


def _of_zip(member: zipfile.ZipInfo) -> Member:
    plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
    return Member(member.filename, member.file_size, plain and not member.is_dir(), plain and member.is_dir())


def _of_tar(member: tarfile.TarInfo) -> Member:
    return Member(member.name, member.size, member.isreg(), member.isdir())


def _check_members(archive: Path, target: Path, members: Sequence[Member]) -> None:
    """Raise FetchError unless all may be unpacked."""
    files = Counter(member.path for member in members if member.is_file)
    for member in members:
        path = member.path
        wrong = {
            "would land outside the target folder":
                path.is_absolute() or ".." in path.parts or bool(PureWindowsPath(member.name).drive),
            "is a link or a device": not (member.is_file or member.is_folder),
            "is there twice": files[path] > member.is_file,
            "lies in another one that is a file": any(parent in files for parent in path.parents),
        }  # fmt: skip
        for why in (why for why, is_so in wrong.items() if is_so):
            raise FetchError(f"{archive}: refused, its member {member.name!r} {why}; nothing was unpacked")
    size, grown, room = archive.stat().st_size, sum(m.size for m in members), shutil.disk_usage(target).free
    if grown > EXPANSION * size:
        much = f"its {size} bytes would grow to {grown}, more than {EXPANSION} times as many"
        raise FetchError(f"{archive}: refused, {much}; nothing was unpacked")
    if grown > room:
        sizes = f"has room for {room} bytes, {archive} unpacked has {grown}"
        raise FetchError(f"the disk with {target} {sizes}; nothing was unpacked. {ROOM}")
