"""The transforms and their inverses."""

import math

import pytest
import torch

from sepriors import STFT
from sepriors.signal.front_ends import Compressed, PeakNormalised, Plain
from sepriors.signal.stft import Compression


@pytest.mark.parametrize("stft", [STFT(1024, 256), STFT(512, 256), STFT(6, 2), STFT(64, 1)], ids=str)
def test_the_inverse_undoes_it(stft):
    for length in (1, 2, 63, 255, 256, 257, 1023, 1024, 1025, 4001):
        x = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length)).clamp(-1, 1)
        X = stft(x)
        assert X.shape == (2, stft.bins, 1 + math.ceil(length / stft.hop))
        torch.testing.assert_close(stft.inverse(X, length), x, atol=1e-14, rtol=0)


def test_energy_is_kept():
    """Parseval, for a signal that is silent where fewer windows reach."""
    stft, x = STFT(512, 128), torch.zeros(8192, dtype=torch.float64)
    x[1024:-1024] = torch.randn(6144, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    P = stft(x).abs().square()
    both_sides = 2 * P.sum() - P[0].sum() - P[-1].sum()
    torch.testing.assert_close(both_sides / 512, x.square().sum() * 512 / 128 / 2)


@pytest.mark.parametrize("stft", [STFT(1024, 256), STFT(512, 256)], ids=str)
def test_no_click_at_either_end(stft):
    """A changed spectrum must not come back louder at the ends than within: many spectra that belong to no signal."""
    g = torch.Generator().manual_seed(0)
    for length in (4096, 4097, 4096 + stft.hop // 2, 4096 + stft.hop - 1):
        X = torch.randn(64, *stft(torch.zeros(length)).shape, dtype=torch.complex64, generator=g)
        rms = stft.inverse(X, length).square().mean(0).sqrt()
        assert max(rms[:64].mean(), rms[-64:].mean()) < 1.5 * rms[1024:-1024].mean()


def test_leading_dimensions_dtype_and_gradients():
    stft, x = STFT(64, 32), torch.randn(2, 3, 4, 100, generator=torch.Generator().manual_seed(0))
    X = stft(x)
    assert (X.shape, X.dtype, stft(x.double()).dtype) == ((2, 3, 4, 33, 5), torch.complex64, torch.complex128)
    assert stft(x[1, 2, 3]).equal(X[1, 2, 3])
    assert stft.inverse(X, 100).shape == x.shape
    assert stft.inverse(X[0, 0, 0], 100).shape == (100,)
    leaf = torch.randn(50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: STFT(8, 4).inverse(2 * STFT(8, 4)(x), 50), leaf)


@pytest.mark.parametrize("hop", [0, -128, 100, 512, 1024])
def test_a_hop_that_does_not_fit(hop):
    with pytest.raises(ValueError, match=f"divides n_fft=512 at least twice, got hop={hop}"):
        STFT(512, hop)


def test_spectra_of_another_transform():
    with pytest.raises(ValueError, match="X has F=257 but the transform has F=513"):
        STFT(1024, 256).inverse(STFT(512, 128)(torch.zeros(1000)), 1000)


# ------------------------------------------------------------- compression

COMPRESSIONS = [Compression(), Compression(0.3, 2), Compression(1.5, 1)]
every_compression = pytest.mark.parametrize("compress", COMPRESSIONS, ids=str)


def spectrum(*shape):
    """Amplitudes over ten orders of magnitude, every phase."""
    g = torch.Generator().manual_seed(0)
    C = torch.randn(*shape, dtype=torch.complex128, generator=g)
    return C * 10 ** (10 * torch.rand(*shape, dtype=torch.float64, generator=g) - 7)


@every_compression
def test_compression_is_of_amplitudes_and_undone(compress):
    C = spectrum(2, 9, 50)
    torch.testing.assert_close(compress(C).abs(), compress.beta * C.abs() ** compress.alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(compress(C).angle(), C.angle())
    torch.testing.assert_close(compress.inverse(compress(C)), C, rtol=1e-12, atol=0)
    torch.testing.assert_close(compress(compress.inverse(C)), C, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_compression_of_silence_and_in_single_precision(dtype):
    compress, C = Compression(), spectrum(2, 9, 50).to(dtype)
    C[1] = 0
    assert compress(C).dtype == dtype
    assert not compress(C)[1].any()
    torch.testing.assert_close(compress.inverse(compress(C)), C, rtol=1e-5, atol=0)


@pytest.mark.parametrize("wrong", [0.0, -0.5, math.inf, math.nan])
def test_a_compression_without_an_inverse(wrong):
    for given in ((wrong, 1.0), (1.0, wrong)):
        with pytest.raises(ValueError, match="expected positive alpha and beta, got alpha={}, beta={}".format(*given)):
            Compression(*given)


@every_compression
@pytest.mark.parametrize("turn", [1j, -1j, 1, -1])
def test_the_secant_gain_is_what_small_changes_grow_by(compress, turn):
    """Sideways it is that, as for a bin that is all change; outwards and inwards alpha squared of it."""
    C = spectrum(2, 9, 50)
    gain = compress.secant_gain(compress(C), floor=1e-30)
    torch.testing.assert_close(gain * C.abs().square(), compress(C).abs().square())
    moved = (compress(C + 1e-6 * C * turn) - compress(C)).abs().square() / (1e-6 * C.abs()).square()
    expected = gain * (1 if isinstance(turn, complex) else compress.alpha**2)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=0)


@every_compression
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_the_secant_gain_has_a_floor(compress, dtype):
    """Silence has that of an amplitude of a thousandth, finite, real, and no phase matters."""
    gain = compress.secant_gain(torch.tensor([0, 1e-9j, -1e-3, 1e-3, 0.5j, -0.5], dtype=dtype))
    assert gain.dtype == dtype.to_real()
    assert (gain.isfinite() & (gain > 0)).all()
    torch.testing.assert_close(gain[:4], gain[2:3].expand(4))
    torch.testing.assert_close(gain[4], gain[5])


# ------------------------------------------------------------- front ends


@pytest.mark.parametrize("length", [1, 33, 1000])
@pytest.mark.parametrize(
    "front", [Plain(STFT(64, 32)), PeakNormalised(STFT(64, 32)), Compressed(STFT(64, 32), Compression(0.3, 2))], ids=str
)
def test_a_front_end_at_its_level_and_back(front, length):
    """Whatever the level of each mixture; silence comes back as silence, for whatever stands in its place."""
    x = torch.randn(4, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e-3
    x = x * torch.tensor([[1e-4], [0.0], [1.0], [300.0]])
    domain = front.bind(x)
    X = domain(x)
    assert X.shape == (4, 33, 1 + math.ceil(length / 32))
    assert X.isfinite().all()
    assert ((domain.inverse(X, length) - x).abs().amax(-1) <= 1e-13 * x.abs().amax(-1)).all()
    loudest = {
        Plain: x.abs().amax(-1), PeakNormalised: torch.tensor([1.0, 0, 1, 1]), Compressed: torch.tensor([1.0, 0, 1, 1])
    }[type(front)]  # fmt: skip
    seen = X.abs().amax((-2, -1)) if isinstance(front, Compressed) else domain.normalised(x).abs().amax(-1)
    torch.testing.assert_close(seen, loudest.double())
    for b in (0, 2):
        assert front.bind(x[b : b + 1])(x[b : b + 1])[0].equal(X[b])
    if isinstance(front, Compressed):
        assert not domain.inverse(X + 1, length)[1].any()
        torch.testing.assert_close(X, front.compression(front.stft(domain.normalised(x))))
