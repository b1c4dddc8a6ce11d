"""Recordings that are decoded once: the same samples, whatever happens to the cache on the way."""

import errno
import os

import numpy as np
import pytest
import torch

from sepriors.lab.corpora import store
from sepriors.signal import audio


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


class Reads:
    """A reader that counts."""

    def __init__(self, corpora):
        self.corpora, self.paths = corpora, []

    def __call__(self, path):
        self.paths.append(path)
        return self.corpora.read(path)


@pytest.fixture
def reads(toy):
    return Reads(toy)


def test_the_samples_of_the_files_once_read(toy, reads):
    """To the last bit, in the order asked for; the second time nothing is read."""
    paths = list(toy.table["path"])[::-1]
    first = store.decode(toy.root, paths, reads)
    again = store.decode(toy.root, paths[:], reads)
    assert sorted(reads.paths) == sorted(paths)
    assert len(first) == len(paths)
    for made in (first, again):
        for path, x in zip(paths, made, strict=True):
            assert x.dtype == torch.float32
            assert x.equal(toy.read(path))
    assert again.lengths == [len(x) for x in again]
    assert again.part(3, 100, 200).equal(again[3][100:200])


def test_rows_of_a_table(toy):
    rows = toy.select(kind="noise", split="valid")
    assert [len(x) for x in toy.decoded(rows)] == [80000 if cls == "home" else 16000 for cls in rows["cls"]]
    assert len(toy.decoded(rows[:0])) == 0


def test_beyond_full_scale_is_cut_and_a_faint_sample_rounded(toy):
    made = store.decode(toy.root, [toy.table["path"][0]], lambda path: torch.tensor([1.5, -1.5, 0.4 / 2**15, 0.25]))
    assert made[0].tolist() == [1 - 2**-15, -1.0, 0.0, 0.25]


def test_a_file_that_changed_is_read_again(toy, tmp_path):
    for i in range(2):
        audio.write(tmp_path / "a.flac", torch.full((100,), 0.25 * (1 + i)), 16000, overwrite=True)
        os.utime(tmp_path / "a.flac", ns=(i, i))
        made = store.decode(tmp_path, ["a.flac"], lambda path: audio.read(tmp_path / path)[0][0])
        assert made[0][0] == 0.25 * (1 + i)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk(toy, reads, cache, monkeypatch, number):
    """What is asked for comes all the same, with a warning; nothing half-written stays."""
    exact = np.save

    def full(path, array):
        exact(path, array[: len(array) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match=f"{os.strerror(number)}; the decoded recordings stay in memory"):
        made = store.decode(toy.root, list(toy.table["path"]), reads)
    assert all(x.equal(toy.read(path)) for path, x in zip(toy.table["path"], made, strict=True))
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_made(toy, reads, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="stay in memory"):
        assert len(store.decode(toy.root, [toy.table["path"][0]], reads)) == 1


def test_a_damaged_recording_is_an_error_and_leaves_nothing(toy, cache):
    def broken(path):
        raise audio.AudioError(f"{path}: cut short")

    with pytest.raises(audio.AudioError, match="cut short"):
        store.decode(toy.root, [toy.table["path"][0]], broken)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_run_left_goes(toy, reads, cache):
    home = cache / store._digest(toy.root, [toy.table["path"][0]])
    left = cache / f"{home.name}~killed"
    left.mkdir(parents=True)
    (left / "samples.npy").write_bytes(b"half")
    store.decode(toy.root, [toy.table["path"][0]], reads)
    assert not left.exists()
