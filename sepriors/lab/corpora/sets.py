"""Named, seeded bench sets: the same mixtures, wherever and whenever they are made from the same corpora."""

import random
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from itertools import cycle

import pandas as pd
import torch

from sepriors.lab.corpora.fetch import open_corpora
from sepriors.lab.corpora.manifest import KNOWN, SAMPLE_RATE, Corpora, CorpusError, unknown
from sepriors.signal import audio
from sepriors.signal.mixing import Mixture, mix
from sepriors.signal.rng import generators

SNRS = {
    "white": (-6.0, 0.0, 6.0, 9.0),
    "real": (-5.0, 0.0, 5.0),
}  # dB: those of Shi et al. (2021), and of UDiffSE and RVAE
# the first group of corpora that is there: real speech first
DOMAINS = {
    "matched": (("mini-librispeech", "librispeech"), ("synthetic",)),
    "mismatched": (("emodb",), ("synthetic-de",)),
    "accent": (("speechocean762",), ("synthetic-de",)),
}
# SPEAKER/PATH+noise/CLASS/NAME, or +white-3: after a word, noise that no other file has
KEY = re.compile(r"(?P<speaker>[^/]*)/.*?\+(?P<noise>noise/(?P<cls>[^/]+)/[^/]+|[a-z]+-\d+)")


def bench_set(
    corpora: Corpora,
    name: str,
    *,
    domain: str = "matched",
    files: int = 24,
    seconds: float = 4.0,
    snrs: Sequence[float] | None = None,
    split: str = "test",
    seed: int = 0,
) -> list[Mixture]:
    """One batched `Mixture` (files, N) an SNR: 'white' (Gaussian noise) or 'real' (recordings, each class in turn).

    Speakers take turns, so each has nearly as many files as the next; a speaker's short files are joined until they
    fill the time. Speech and noise are of the given split. The same speech and the same noise stand at every SNR, so
    SNRs compare pairwise. A test and a training set share no speaker and no noise recording. A file's key names its
    speaker and its noise: 'SPEAKER/PATH+noise/CLASS/NAME' or 'SPEAKER/PATH+white-3'. Raises CorpusError where the
    corpora have too little.
    """
    if name not in SNRS:
        raise CorpusError(unknown("bench set", name, SNRS))
    if domain not in DOMAINS:
        raise CorpusError(unknown("domain", domain, DOMAINS))
    length = round(seconds * SAMPLE_RATE)
    if files < 1 or length < 1:
        raise CorpusError(f"expected at least one file and one sample, got files={files}, seconds={seconds}")
    rows = corpora.select(corpus=speech_of(corpora, domain), kind="speech", split=split)
    speech = _excerpts(corpora, rows, files, length, seed)
    if name == "white":
        noises = [(f"white-{i}", _white(length, seed, key)) for i, (key, _) in enumerate(speech)]
    else:
        noises = _noises(corpora, split, files, length, seed)
    clean, noise = (torch.stack([x for _, x in part]) for part in (speech, noises))
    speaker = {path: name.replace("/", "-") for path, name in zip(rows["path"], rows["speaker"], strict=True)}
    key = tuple(f"{speaker[s]}/{s}+{n}" for (s, _), (n, _) in zip(speech, noises, strict=True))
    return [mix(clean, noise, snr, key) for snr in (SNRS[name] if snrs is None else snrs)]


def speech_of(corpora: Corpora, domain: str = "matched") -> list[str]:
    """The corpora of a domain that are there, real ones where there are some; CorpusError where there are none."""
    have = set(corpora.table["corpus"])
    for group in DOMAINS[domain]:
        if there := [corpus for corpus in group if corpus in have]:
            return there
    known = " or ".join(corpus for group in DOMAINS[domain] for corpus in group)
    raise CorpusError(f"expected {domain} speech of {known}, got none; {corpora}")


def demo(
    corpora: Corpora | None = None, *, snr_db: float = 0.0, seconds: float = 4.0, cls: str | None = None, seed: int = 0
) -> Mixture:
    """One test utterance (N,) in real noise, to hear and to try things on.

    Without corpora it is of the two clips that come with the package. The noise is of class `cls`, or of the first
    class there is where the corpora have none of that; `class_of` its key says which. Raises CorpusError for a class
    that neither the corpora nor this project know.

    >>> demo(snr_db=5.0, seconds=2.0).noisy.shape
    torch.Size([32000])
    """
    if corpora is None and cls is None:
        clean, noise = (_clip(name, round(seconds * SAMPLE_RATE)) for name in ("speech", "noise"))
        return mix(clean, noise, snr_db, ("3664/speech.flac+noise/vehicle/noise.flac",))
    corpora = corpora or open_corpora()
    classes = sorted(corpora.select(kind="noise", split="test")["cls"].unique())
    if cls is not None and cls not in {*classes, *KNOWN["cls"]}:
        raise CorpusError(unknown("noise class", cls, {*classes, *KNOWN["cls"]}))
    index = classes.index(cls) if cls in classes else 0  # a bench set takes them in this order
    batch = bench_set(corpora, "real", files=index + 1, seconds=seconds, snrs=[snr_db], seed=seed)[0]
    return Mixture(batch.noisy[index], batch.clean[index], batch.noise[index], snr_db, batch.key[index : index + 1])


def _clip(name: str, length: int) -> torch.Tensor:
    """So many samples of a clip of the package; what is longer goes round."""
    with resources.as_file(resources.files("sepriors.lab") / "clips" / f"{name}.flac") as path:
        x = audio.read(path)[0][0]
    return x.repeat(-(-length // len(x)))[:length]


def speaker_of(key: str) -> str:
    """The speaker of a mixture, from its key; the key itself where it is none of a mixture.

    >>> speaker_of("1272/dev/1272-1.flac+noise/home/x.flac"), speaker_of("1272/dev/1272-1.flac+white-0")
    ('1272', '1272')
    """
    return found["speaker"] if (found := KEY.fullmatch(key)) else key


def recording_of(key: str) -> str:
    """The recording of noise in a mixture, from its key; the key itself where it is none of a mixture.

    >>> recording_of("1272/dev/1272-1.flac+noise/home/x.flac"), recording_of("1272/dev/1272-1.flac+white-0")
    ('noise/home/x.flac', 'white-0')
    """
    return found["noise"] if (found := KEY.fullmatch(key)) else key


def class_of(key: str) -> str:
    """The class of the noise in a mixture, from its key; 'none' where no recording is named.

    >>> class_of("1272/dev/1272-1.flac+noise/home/x.flac"), class_of("1272/dev/1272-1.flac+white-0")
    ('home', 'none')
    """
    found = KEY.fullmatch(key)
    return (found and found["cls"]) or "none"


def clusters_of(keys: Iterable[str]) -> dict[str, list[str]]:
    """Speakers and recordings of mixtures, as `claims.bootstrap` takes them; none where no key is that of a mixture.

    >>> clusters_of(["1272/dev/1272-1.flac+white-0"]), clusters_of(["one.wav", "two.wav"])
    ({'speakers': ['1272'], 'recordings': ['white-0']}, {})
    """
    keys = list(keys)
    if not any(map(KEY.fullmatch, keys)):
        return {}
    return {"speakers": [speaker_of(key) for key in keys], "recordings": [recording_of(key) for key in keys]}


def _seed(seed: int, key: str) -> int:
    """A seed of its own for each recording, that no neighbour changes."""
    return zlib.crc32(f"{seed}:{key}".encode())


def _white(length: int, seed: int, key: str) -> torch.Tensor:
    (generator,) = generators(_seed(seed, key), 1)
    return torch.randn(length, generator=generator)


def _in_turn(rows: pd.DataFrame, field: str, seed: int) -> Iterator[tuple[str, Iterator[str]]]:
    """(group, its paths) for ever: the groups of a field in turn, each going on in its shuffled paths."""
    groups = {}
    for name, group in rows.groupby(field, sort=True):
        paths = sorted(group["path"])
        random.Random(_seed(seed, str(name))).shuffle(paths)
        groups[str(name)] = iter(paths)
    yield from cycle(groups.items())


def _by_turns(rows: pd.DataFrame, field: str) -> list[tuple[str, str]]:
    """(group, path) of all rows: the first of each group, the second of each that has one, and so on."""
    ordered = rows.sort_values([field, "path"])
    turn = ordered.groupby(field).cumcount()
    ordered = ordered.assign(turn=turn).sort_values(["turn", field])
    return list(zip(ordered[field].astype(str), ordered["path"], strict=True))


def _excerpts(
    corpora: Corpora, rows: pd.DataFrame, files: int, length: int, seed: int
) -> list[tuple[str, torch.Tensor]]:
    """So many excerpts of speech, no file used twice."""
    excerpts: list[tuple[str, torch.Tensor]] = []
    dry: set[str] = set()
    for speaker, paths in _in_turn(rows, "speaker", seed):
        pieces: list[torch.Tensor] = []
        first = ""
        while sum(map(len, pieces)) < length and (path := next(paths, None)):
            first = first or path
            pieces.append(corpora.read(path))
        if sum(map(len, pieces)) >= length:
            x = torch.cat(pieces)
            start = random.Random(_seed(seed, first)).randrange(len(x) - length + 1)
            excerpts.append((first, x[start : start + length]))
            if len(excerpts) == files:
                return excerpts
        else:
            dry.add(speaker)
            if dry == set(rows["speaker"]):
                break
    have = f"only {len(excerpts)} from {len(rows)} files"
    raise CorpusError(f"expected {files} excerpts of {length / SAMPLE_RATE:g} s of speech, got {have}")


def _noises(corpora: Corpora, split: str, files: int, length: int, seed: int) -> list[tuple[str, torch.Tensor]]:
    """So many excerpts of noise: classes in turn, none of its recordings twice while there are others of any class.

    Each is cut at a place of its own; their keys are 'noise/CLASS/name'.
    """
    rows = corpora.select(kind="noise", split=split)
    if rows.empty:
        raise CorpusError(f"expected noise of the split {split}, got none; {corpora}")
    noises = []
    for i, (cls, path) in zip(range(files), cycle(_by_turns(rows, "cls")), strict=False):
        x = corpora.read(path)
        x = x.repeat(-(-length // len(x)))  # a recording shorter than the excerpt goes round
        start = random.Random(_seed(seed, f"{path}:{i}")).randrange(len(x) - length + 1)
        noises.append((f"noise/{cls.replace('/', '-')}/{path.rsplit('/', 1)[-1]}", x[start : start + length]))
    return noises
