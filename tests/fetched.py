"""A cache as `sepriors fetch` leaves it, for CI: archives laid out as the public ones, served by this machine.

    python tests/fetched.py CACHE

What speaks in them are the synthetic voices; all else is as a user has it after a download: corpora/NAME with a
manifest each, babble beside Mini LibriSpeech, no recordings of the kinds `real`, `pair-clean` and `pair-noisy`. The
chapters then run with SEPRIORS_CACHE=CACHE.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

import pandas as pd
from serving import Server, registry_of, running, tarred, zipped

from sepriors.lab.corpora import Corpora, fetch, open_corpora, registry

# Speakers as the readers split them: of `dev-clean-2` every other one is test, of EmoDB 15 and 16 are
SPEAKERS = {"train-clean-5": range(100, 200), "dev-clean-2": range(200, 300)}
GERMAN = {"train": ("03", "08", "09", "10", "11", "12", "13", "14"), "test": ("15", "16")}
# A category of ESC-50 for each class, and a fold for each split
CATEGORIES = ("vacuum_cleaner", "engine", "siren", "rain", "clapping")
FOLDS = {"train": 1, "valid": 4, "test": 5}


def mini_librispeech(corpora: Corpora) -> dict[str, bytes]:
    """The archives of OpenSLR 31, by name."""
    speech = corpora.select(corpus="synthetic", kind="speech")
    made, lines = {}, []
    for name, numbers in SPEAKERS.items():
        rows, files = speech[(speech["split"] == "train") == (name == "train-clean-5")], []
        for number, (_, group) in zip(numbers, rows.groupby("speaker"), strict=False):
            lines.append(f"{number} | {group['gender'].iloc[0]} | {name} | 25.1 | Reader {number}")
            for i, path in enumerate(group["path"]):
                content = (corpora.root / path).read_bytes()
                files.append((f"LibriSpeech/{name}/{number}/7/{number}-7-{i:04}.flac", content))
        made[f"{name}.tar.gz"] = tarred(*files, ("LibriSpeech/SPEAKERS.TXT", "\n".join(lines).encode()))
    return made


def emodb(corpora: Corpora) -> dict[str, bytes]:
    """The archive of the Berlin Database of Emotional Speech."""
    speech, files = corpora.select(corpus="synthetic-de", kind="speech"), []
    for split, speakers in GERMAN.items():
        voices = [group["path"] for _, group in speech[speech["split"] == split].groupby("speaker")]
        for speaker, paths in zip(speakers, voices, strict=False):
            for i, path in enumerate(paths):
                files.append((f"wav/{speaker}a{i + 1:02}Na.wav", (corpora.root / path).read_bytes()))
    return {"download.zip": zipped(*files)}


def esc50(corpora: Corpora) -> dict[str, bytes]:
    """The archive of ESC-50."""
    noise, files = corpora.select(corpus="synthetic", kind="noise"), []
    lines, clip = ["filename,fold,target,category,esc10,src_file,take"], count(100)
    for split, fold in FOLDS.items():
        paths = noise[noise["split"] == split]["path"]
        for i, (path, category) in enumerate((p, c) for c in CATEGORIES for p in paths):
            recording = next(clip)
            name = f"{fold}-{recording}-A-{i}.wav"
            lines.append(f"{name},{fold},{i},{category},False,{recording},A")
            files.append((f"ESC-50-master/audio/{name}", (corpora.root / path).read_bytes()))
    return {"ESC-50.zip": zipped(*files, ("ESC-50-master/meta/esc50.csv", "\n".join(lines).encode()))}


MAKERS = {"mini-librispeech": mini_librispeech, "emodb": emodb, "esc-50": esc50}


def main(cache: Path) -> pd.DataFrame:
    """Fetch what the registry marks `auto` into the cache; returns what is there then."""
    assert set(MAKERS) == {name for name, entry in registry().items() if entry.get("auto")}
    spoken = open_corpora("synthetic")
    os.environ["SEPRIORS_CACHE"] = str(cache)
    server = Server()
    book = cache / "registry.toml"
    cache.mkdir(parents=True, exist_ok=True)
    with running(server):
        book.write_text(registry_of(server, {name: maker(spoken) for name, maker in MAKERS.items()}))
        for name in MAKERS:
            fetch(name, registry_path=book)
    book.unlink()
    return open_corpora("auto").describe()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(main(Path(sys.argv[1]).resolve()).to_string(index=False))
