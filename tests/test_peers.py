"""Packages of others as methods: aligned, batched, silent where the input is; a missing one says how to get it."""

import sys

import pytest
import torch

from sepriors import enhance, metrics
from sepriors.lab import corpora
from sepriors.lab.peers import PACKAGES, PEERS, MissingPackage, available

EACH = pytest.mark.parametrize("name", PEERS)


@pytest.fixture(scope="module")
def mixture():
    return corpora.bench_set(corpora.open_corpora(), "real", files=3, seconds=2.0, snrs=[20.0])[0]


@EACH
def test_speech_comes_back_at_its_place(name, mixture):
    """At 20 dB there is little to take away: what is left must lie under the clean speech, sample by sample."""
    speech = enhance(mixture.noisy, PEERS[name]())
    assert speech.shape == mixture.noisy.shape
    for clean, found in zip(mixture.clean, speech, strict=True):
        moved = [float(metrics.si_sdr(clean[40:-40], found.roll(k)[40:-40])) for k in range(-8, 9)]
        assert max(moved) == moved[8] > 3


@EACH
def test_alone_as_in_company(name, mixture):
    method = PEERS[name]()
    torch.testing.assert_close(enhance(mixture.noisy, method)[1], enhance(mixture.noisy[1], method), rtol=0, atol=0)


@EACH
@pytest.mark.parametrize("length", [1, 1000, 16001])
def test_any_length_and_precision(name, length):
    x = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    speech = enhance(x, PEERS[name]())
    assert speech.shape == x.shape
    assert speech.dtype == x.dtype
    assert speech.isfinite().all()
    assert not enhance(torch.zeros(length), PEERS[name]()).any()


@EACH
def test_a_missing_package_says_how_to_get_it(name, monkeypatch):
    package = PACKAGES[name]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.rnnoise", None)
    with pytest.raises(MissingPackage, match=rf"{package}: pip install 'sepriors\[peers\]'"):
        enhance(torch.ones(100), PEERS[name]())


def test_both_are_installed_here():
    assert available() == list(PEERS)
