"""The transform and its inverse."""

import math

import pytest
import torch

from sepriors import STFT
from sepriors.signal.stft import Compression

CHOICES = [STFT(1024, 256), STFT(512, 128), STFT(512, 256), STFT(6, 2), STFT(64, 1)]
LENGTHS = [1, 2, 63, 64, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4000, 16127]


@pytest.mark.parametrize("stft", CHOICES, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_inverse_undoes_it(stft, length):
    x = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length)).clamp(-1, 1)
    X = stft(x)
    assert X.shape == (2, stft.bins, 1 + math.ceil(length / stft.hop))
    torch.testing.assert_close(stft.inverse(X, length), x, atol=1e-14, rtol=0)


@pytest.mark.parametrize("stft", CHOICES, ids=str)
def test_the_squared_windows_overlap_to_a_constant(stft):
    w = stft.window(torch.zeros(1, dtype=torch.float64)).square()
    overlapped = w.reshape(-1, stft.hop).sum(0)
    torch.testing.assert_close(overlapped, torch.full_like(overlapped, stft.n_fft / stft.hop / 2))


def test_energy_is_kept():
    """Parseval, for a signal that is silent where fewer windows reach."""
    stft = STFT(512, 128)
    x = torch.zeros(8192, dtype=torch.float64)
    x[1024:-1024] = torch.randn(6144, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    P = stft(x).abs().square()
    both_sides = 2 * P.sum() - P[0].sum() - P[-1].sum()
    torch.testing.assert_close(both_sides / 512, x.square().sum() * 512 / 128 / 2)


def test_a_tone_stands_in_its_bin():
    stft = STFT(512, 128)
    x = torch.cos(2 * math.pi * 40 / 512 * torch.arange(4096, dtype=torch.float64))
    P = stft(x).abs().square()[:, 4:-4]
    assert (P.argmax(0) == 40).all()
    assert (P[38:43].sum(0) / P.sum(0) > 0.99).all()


@pytest.mark.parametrize("stft", [STFT(1024, 256), STFT(512, 256)], ids=str)
def test_no_click_at_either_end(stft):
    """A changed spectrum must not come back louder at the ends than within: many spectra that belong to no signal."""
    g = torch.Generator().manual_seed(0)
    for length in (4096, 4097, 4096 + stft.hop // 2, 4096 + stft.hop - 1):
        X = torch.randn(64, *stft(torch.zeros(length)).shape, dtype=torch.complex128, generator=g)
        rms = stft.inverse(X, length).square().mean(0).sqrt()
        within = rms[1024:-1024].mean()
        assert rms[:64].mean() < 1.5 * within
        assert rms[-64:].mean() < 1.5 * within


def test_leading_dimensions_dtype_and_linearity():
    stft = STFT(64, 32)
    x = torch.randn(2, 3, 4, 100, generator=torch.Generator().manual_seed(0))
    X = stft(x)
    assert X.shape == (2, 3, 4, 33, 5)
    assert X.dtype == torch.complex64
    assert stft(x.double()).dtype == torch.complex128
    assert stft(x[1, 2, 3]).equal(X[1, 2, 3])
    torch.testing.assert_close(stft(3 * x + 1), 3 * X + stft(torch.ones(100)), atol=1e-4, rtol=1e-5)
    assert stft.inverse(X, 100).shape == x.shape
    assert stft.inverse(X[0, 0, 0], 100).shape == (100,)


def test_gradients_pass():
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: STFT(8, 4).inverse(2 * STFT(8, 4)(x), 50), x)


@pytest.mark.parametrize(("n_fft", "hop"), [(512, 0), (512, -128), (512, 100), (512, 512), (512, 1024)])
def test_a_hop_that_does_not_fit(n_fft, hop):
    with pytest.raises(ValueError, match=f"divides n_fft={n_fft} at least twice, got hop={hop}"):
        STFT(n_fft, hop)


def test_spectra_of_another_transform():
    with pytest.raises(ValueError, match="X has F=257 but the transform has F=513"):
        STFT(1024, 256).inverse(STFT(512, 128)(torch.zeros(1000)), 1000)


def test_it_is_a_value():
    assert STFT() == STFT(1024, 256, 16000)
    assert len({STFT(), STFT(1024, 256)}) == 1


# ------------------------------------------------------------- compression

COMPRESSIONS = [Compression(), Compression(0.3, 2.0), Compression(1.0, 0.5), Compression(1.5, 1.0)]


def spectrum(*shape, dtype=torch.complex128):
    """Amplitudes over ten orders of magnitude, every phase."""
    g = torch.Generator().manual_seed(0)
    C = torch.randn(*shape, dtype=dtype, generator=g)
    return C * 10 ** (10 * torch.rand(*shape, dtype=C.real.dtype, generator=g) - 7)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_compression_is_undone(compress):
    C = spectrum(2, 9, 50)
    torch.testing.assert_close(compress.inverse(compress(C)), C, rtol=1e-12, atol=0)
    torch.testing.assert_close(compress(compress.inverse(C)), C, rtol=1e-12, atol=0)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_what_compression_does_to_amplitudes_and_phases(compress):
    C = spectrum(2, 9, 50)
    torch.testing.assert_close(compress(C).abs(), compress.beta * C.abs() ** compress.alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(compress(C).angle(), C.angle())
    torch.testing.assert_close(compress.inverse(C).angle(), C.angle())


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_silence_is_compressed_to_silence(compress, dtype):
    C = torch.zeros(3, 4, dtype=dtype)
    C[1] = 1j
    for made in (compress(C), compress.inverse(C)):
        assert made.dtype == dtype
        assert not made[[0, 2]].any()
        assert made[1].all()


def test_compression_in_single_precision():
    C = spectrum(2, 9, 50)
    got = Compression().inverse(Compression()(C.to(torch.complex64)))
    torch.testing.assert_close(got, C.to(torch.complex64), rtol=1e-5, atol=0)


def test_a_factor_scales_what_is_compressed():
    """A level of the waveform is a level of its compressed spectrum, to the power α."""
    C = spectrum(9, 50)
    torch.testing.assert_close(Compression()(4 * C), 2 * Compression()(C))
    torch.testing.assert_close(Compression(1.0, 1.0)(C), C)


@pytest.mark.parametrize("alpha", [0.0, -0.5, math.inf, math.nan])
def test_a_compression_without_an_inverse(alpha):
    with pytest.raises(ValueError, match=f"expected positive alpha and beta, got alpha={alpha}, beta=1.0"):
        Compression(alpha, 1.0)
    with pytest.raises(ValueError, match=f"expected positive alpha and beta, got alpha=1.0, beta={alpha}"):
        Compression(1.0, alpha)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
def test_the_chord_of_a_compression_is_what_it_makes_of_a_bin_alone(compress):
    C = spectrum(2, 9, 50)
    secant_gain = compress.secant_gain(compress(C), floor=1e-30)
    assert secant_gain.shape == (2, 9, 50)
    torch.testing.assert_close(secant_gain * C.abs().square(), compress(C).abs().square())


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
@pytest.mark.parametrize(("turn", "share"), [(1j, 1.0), (-1j, 1.0), (1, "alpha"), (-1, "alpha")])
def test_the_chord_of_a_compression_bounds_what_it_makes_of_small_changes(compress, turn, share):
    """Sideways it is that; outwards and inwards alpha squared of it."""
    C = spectrum(2, 9, 50)
    change = 1e-6 * C * turn
    moved = (compress(C + change) - compress(C)).abs().square() / change.abs().square()
    share = compress.alpha**2 if share == "alpha" else share
    torch.testing.assert_close(moved, share * compress.secant_gain(compress(C), floor=1e-30), rtol=1e-5, atol=0)


@pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_the_chord_of_a_compression_has_a_floor(compress, dtype):
    """Silence has that of an amplitude of a thousandth, finite, real, and no phase matters."""
    C = torch.tensor([[0, 1e-9j, -1e-3, 1e-3, 0.5j, -0.5]], dtype=dtype)
    secant_gain = compress.secant_gain(C)
    assert secant_gain.dtype == dtype.to_real()
    assert secant_gain.isfinite().all()
    assert (secant_gain > 0).all()
    torch.testing.assert_close(secant_gain[:, :4], secant_gain[:, 2:3].expand(1, 4))
    torch.testing.assert_close(secant_gain[:, 4], secant_gain[:, 5])
    assert compress.secant_gain(C, floor=0.5).unique().numel() == 1
