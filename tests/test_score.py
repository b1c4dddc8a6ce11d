"""The network's shapes, what it does before it has learned, and that nothing about a batch matters but its bits."""

import pytest
import torch

from sepriors import STFT, priors, weights
from sepriors.priors import Denoiser
from sepriors.signal.stft import Compression

F = 257
SIZES = [(8, 8), (8, 8, 8)]


def normal(*shape, seed=0, dtype=torch.cfloat):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.cdouble).to(dtype)


def fresh(**choices):
    """A small network before training."""
    made = Denoiser(**{"channels": (8, 8), **choices})
    made.start(torch.Generator().manual_seed(0))
    return made


def drawn(*, dtype=torch.float32, **choices):
    """The same away from its start, where no block does anything; frozen."""
    made, g = fresh(**choices), torch.Generator().manual_seed(1)
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    return made.to(dtype).requires_grad_(False).eval()


def distance(got, expected):
    """Of the mean, over its norm; and of the variance, the farthest in nats."""
    of_mean = (got.mean - expected.mean).norm() / expected.mean.norm()
    return float(of_mean), float((got.variance.log() - expected.variance.log()).abs().max())


# ------------------------------------------------------------- shapes


@pytest.mark.parametrize("channels", SIZES, ids=str)
@pytest.mark.parametrize("frames", [1, 3, 8, 16, 17, 33])
def test_any_length(channels, frames):
    """Whole strides, one frame more, one frame alone: what is missing is silence."""
    made, x = drawn(channels=channels, dtype=torch.float64), normal(2, F, frames, dtype=torch.cdouble)
    mean, variance = made.denoise(x, 0.5)
    assert mean.shape == variance.shape == (2, F, frames)
    assert (mean.dtype, variance.dtype) == (torch.cdouble, torch.float64)
    assert mean.isfinite().all()
    assert (variance > 0).all()
    filled = made.denoise(torch.nn.functional.pad(x, (0, -frames % (4 << len(channels) - 1))), 0.5)
    torch.testing.assert_close(filled.mean[..., :frames], mean)
    torch.testing.assert_close(filled.variance[..., :frames], variance)


def test_a_smaller_transform():
    made = drawn(stft=STFT(64, 32))
    assert made.denoise(normal(2, 33, 5), 0.5).mean.shape == (2, 33, 5)


@pytest.mark.parametrize("told", [False, True])
def test_leading_dimensions_are_free(told):
    made = drawn(told=told, dtype=torch.float64)
    x, sigma = normal(3, 2, F, 5, dtype=torch.cdouble), torch.tensor([0.1, 1.0]).double()[:, None, None]
    noisy = normal(2, F, 5, seed=1, dtype=torch.cdouble)
    got = made.denoise(x, sigma, noisy if told else None)
    assert got.mean.shape == got.variance.shape == x.shape
    for r in range(3):
        for b in range(2):
            one = made.denoise(x[r, b], float(sigma[b]), noisy[b] if told else None)
            assert one.mean.shape == one.variance.shape == (F, 5)
            torch.testing.assert_close(one.mean, got.mean[r, b])
            torch.testing.assert_close(one.variance, got.variance[r, b])


def test_the_level_as_a_number_and_as_a_tensor():
    made, x = drawn(), normal(3, 2, F, 5)
    one = made.denoise(x, 0.3)
    for sigma in (torch.tensor(0.3), torch.tensor(0.3).double(), torch.full((2, 1, 1), 0.3)):
        for got, expected in zip(made.denoise(x, sigma), one, strict=True):
            assert got.equal(expected)
            assert got.dtype == expected.dtype
    other = made.denoise(x, torch.tensor([0.3, 0.4])[:, None, None])
    assert other.mean[:, 0].equal(one.mean[:, 0])
    assert not other.mean[:, 1].equal(one.mean[:, 1])


@pytest.mark.parametrize("level", [0.0, 1e-20, 1e4])
@pytest.mark.parametrize("sigma", [1e-4, 0.01, 2.5, 100.0])
def test_silence_and_great_amplitudes_stay_finite(level, sigma):
    made = drawn().denoise(level * normal(1, F, 5), sigma)
    assert made.mean.isfinite().all()
    assert made.variance.isfinite().all()
    assert (made.variance > 0).all()


def test_spectra_of_another_transform():
    with pytest.raises(ValueError, match="spectrum has F=513 but the network has F=257; one STFT for both"):
        fresh().denoise(normal(1, 513, 5), 0.5)


def test_told_and_not_told():
    x = normal(1, F, 5)
    with pytest.raises(ValueError, match="expected no noisy spectrum beside x, got one"):
        fresh().denoise(x, 0.5, x)
    with pytest.raises(ValueError, match="expected a noisy spectrum beside x, got none"):
        fresh(told=True).denoise(x, 0.5)


@pytest.mark.parametrize("fast", [False, True])
def test_draws_share_the_spectrum_that_is_told(fast):
    made, x, noisy = drawn(told=True, fast=fast), normal(3, 2, F, 5), normal(2, F, 5, seed=1)
    got = made.denoise(x, 0.5, noisy)
    for a, b in zip(got, made.denoise(x, 0.5, noisy.expand(3, 2, F, 5).contiguous()), strict=True):
        assert a.equal(b)
    other = made.denoise(x, 0.5, torch.stack([noisy[0], 2 * noisy[1]]))
    assert not other.mean[:, 1].equal(got.mean[:, 1])


# ------------------------------------------------------------- what it says


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("channels", SIZES, ids=str)
def test_before_training_it_is_the_wiener_filter_of_white_speech(channels, told):
    """Karras et al. (2022, table 1): c_skip x, whose error at that spread has the variance that it says; 0 above."""
    made, x = fresh(channels=channels, told=told), normal(3, F, 9)
    for sigma in (0.01, 0.3, 2.5):
        mean, variance = made.denoise(x, sigma, x if told else None)
        G = made.std**2 / (made.std**2 + sigma**2)
        torch.testing.assert_close(mean[:, :-1], G * x[:, :-1])
        assert not mean[:, -1].any()
        torch.testing.assert_close(variance, torch.full_like(variance, G * sigma**2))


def test_a_trained_last_bin_is_silent_too():
    mean, _ = drawn().denoise(normal(3, F, 9), 0.3)
    assert not mean[:, -1].any()
    assert mean[:, :-1].abs().min() > 0


def test_the_last_bin_does_not_matter():
    made, x = drawn(), normal(3, F, 9)
    expected = made.denoise(x, 0.3)
    x[:, -1] = 1e3
    for got, same in zip(made.denoise(x, 0.3), expected, strict=True):
        assert got.equal(same)


def test_the_weight_is_the_error_that_is_left_of_independent_bins():
    """1 / weight = 1 / σ² + 1 / spread²."""
    made, sigma = fresh(std=0.2), torch.tensor([0.01, 0.2, 2.5]).double()
    torch.testing.assert_close(1 / made.weight(sigma), sigma**-2 + 0.2**-2)


def test_the_variance_has_bounds():
    """Between e⁻¹² and e⁶ of the weight, whatever the head says."""
    made, x = fresh(), normal(1, F, 5)
    for says, bound in ((-1e3, -12), (1e3, 6)):
        made.head.bias.data[32:] = says
        variance = made.denoise(x, 0.3).variance[..., :-1, :] / made.weight(torch.tensor(0.3))
        torch.testing.assert_close(variance.log(), torch.full_like(variance, bound), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.5])
def test_what_the_network_sees(sigma):
    """Variance 1 of white speech at that spread in noise of any level, its mixture over the spread, and log σ / 4."""
    made, seen = fresh(told=True), {}
    clean, z = (normal(1, F, 64, seed=seed) for seed in (0, 1))

    def network(image, level):
        seen.update(image=image, level=level)
        return torch.zeros(1, 3, F - 1, 64)

    made._network = network
    made.denoise(made.std * clean + sigma * z, sigma, made.std * clean)
    x, noisy = (torch.complex(*planes.unbind(1)) for planes in seen["image"].split(2, 1))
    assert float(x.abs().square().mean()) == pytest.approx(1, abs=4 / x.numel() ** 0.5)
    torch.testing.assert_close(noisy, clean[:, :-1])
    torch.testing.assert_close(seen["level"], torch.tensor([[sigma]]).log() / 4)


def test_a_start_is_of_its_generator():
    one, same, other = (Denoiser(channels=(8, 8)) for _ in range(3))
    for made, seed in ((one, 0), (same, 0), (other, 1)):
        made.start(torch.Generator().manual_seed(seed))
    assert all(p.equal(q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert p.equal(q) == (not p.any()), name
        if p.any():
            assert float(p.detach().square().mean() * p[0].numel()) == pytest.approx(1, rel=0.5), name


# ------------------------------------------------------------- gradients


def cost(made, x, noisy=None):
    mean, variance = made.denoise(x, 0.3, noisy)
    return mean.abs().square().sum() + variance.log().sum()


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("channels", SIZES, ids=str)
def test_every_parameter_learns(channels, told):
    """At the start the head alone; and once what is zero there has moved, all."""
    made, x = fresh(channels=channels, told=told), normal(2, F, 16)
    noisy, g = normal(2, F, 16, seed=1) if told else None, torch.Generator().manual_seed(0)

    def moving():
        made.zero_grad()
        cost(made, x, noisy).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())
        return {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}

    everything = {name for name, _ in made.named_parameters()}
    assert moving() == {"head.weight", "head.bias"}
    for p in made.parameters():
        if not p.any():
            p.data += 1e-2 * torch.randn(p.shape, generator=g)
    assert moving() == everything


def test_four_steps_of_descent_move_every_parameter():
    """What is zero wakes in turn: the head, the blocks' ends, what they are told, the level's embedding."""
    made, x = fresh(fast=False), normal(2, F, 16)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimiser = torch.optim.Adam(made.parameters(), 1e-3)
    moved = []
    for _ in range(4):
        optimiser.zero_grad()
        cost(made, x).backward()
        optimiser.step()
        moved.append({name for name, p in made.named_parameters() if not p.equal(before[name])})
    assert moved[0] == {"head.weight", "head.bias"}
    assert moved[0] < moved[1] < moved[2]
    assert moved[3] == before.keys()


def test_the_gradient_in_the_spectrum_is_that_of_its_differences():
    """What a sampler that differentiates would ask for."""
    made = drawn(stft=STFT(64, 32), channels=(4, 4), dtype=torch.float64)
    x, direction = normal(1, 33, 2, dtype=torch.cdouble), normal(1, 33, 2, seed=1, dtype=torch.cdouble)
    f = lambda x: cost(made, x)  # noqa: E731
    (slope,) = torch.autograd.grad(f(x.requires_grad_()), x)
    h, x = 1e-5, x.detach()
    by_hand = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    torch.testing.assert_close((slope.conj() * direction).sum().real, by_hand, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------- precision


@pytest.mark.parametrize("channels", SIZES, ids=str)
def test_fast_is_nearly_the_same(channels):
    """Half precision where the signal is in single, and there alone: 0.8 % of the mean, 0.13 nats of the variance."""
    exact, fast = (drawn(channels=channels, fast=fast) for fast in (False, True))
    x = 0.3 * normal(5, F, 33)
    for sigma in (0.02, 0.3, 1.75):
        mean, variance = distance(fast.denoise(x, sigma), exact.denoise(x, sigma))
        assert 0 < mean < 0.02
        assert 0 < variance < 0.4
    one, same = (made.double().denoise(x.to(torch.cdouble), 0.3) for made in (exact, fast))
    assert one.mean.equal(same.mean)
    assert one.variance.equal(same.variance)


def test_single_precision_without_haste_is_double_but_for_rounding():
    x = 0.3 * normal(5, F, 33)
    exact = drawn(dtype=torch.float64).denoise(x.to(torch.cdouble), 0.3)
    mean, variance = distance(drawn(fast=False).denoise(x, 0.3), exact)
    assert mean < 5e-6
    assert variance < 5e-5


@pytest.mark.parametrize("channels", SIZES, ids=str)
@pytest.mark.parametrize("frames", [1, 31, 64])
@pytest.mark.parametrize(
    ("dtype", "fast", "bound"),
    [(torch.float32, True, 4e-3), (torch.float32, False, 5e-6), (torch.float64, False, 5e-15)],
    ids=["fast", "single", "double"],
)
def test_an_utterance_is_alike_alone_and_in_company(dtype, fast, bound, frames, channels):
    """But for rounding: a product's order of sums is the batch's. 4e-3 is the last place of bfloat16."""
    made = drawn(channels=channels, fast=fast, dtype=dtype)
    x = 0.3 * normal(5, F, frames, dtype=torch.cdouble if dtype == torch.float64 else torch.cfloat)
    sigma = torch.tensor([0.02, 0.1, 0.3, 1.0, 1.75], dtype=dtype)[:, None, None]
    together = made.denoise(x, sigma)
    for rows in (slice(0, 1), slice(3, 4), slice(1, 3)):
        alone = made.denoise(x[rows], sigma[rows])
        mean, variance = distance(alone, type(together)(*(part[rows] for part in together)))
        assert mean <= bound
        assert variance <= 20 * bound


def test_the_same_again():
    made, x = drawn(), normal(2, F, 9)
    for one, two in zip(made.denoise(x, 0.3), made.denoise(x, 0.3), strict=True):
        assert one.equal(two)


def test_what_is_given_stays_as_it_was():
    made, x, noisy = drawn(told=True), normal(2, F, 9), normal(2, F, 9, seed=1)
    kept = x.clone(), noisy.clone()
    made.denoise(x, 0.3, noisy)
    assert x.equal(kept[0])
    assert noisy.equal(kept[1])


# ------------------------------------------------------------- to a file and back


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("channels", SIZES, ids=str)
def test_a_network_comes_back_from_its_file(tmp_path, told, channels):
    made = drawn(stft=STFT(64, 16, 8000), compression=Compression(0.4, 0.2), channels=channels, told=told, std=0.15)
    path = tmp_path / "s.safetensors"
    weights.save(path, made.state_dict(), made.config)
    got = priors.load(path)
    assert isinstance(got, Denoiser)
    assert (got.stft, got.compression) == (STFT(64, 16, 8000), Compression(0.4, 0.2))
    assert (got.channels, got.told, got.std) == (channels, told, 0.15)
    assert got.config == made.config
    x, noisy = normal(2, 33, 9), normal(2, 33, 9, seed=1) if told else None
    for one, two in zip(got.denoise(x, 0.3, noisy), made.denoise(x, 0.3, noisy), strict=True):
        assert one.equal(two)
    assert not got.training
    assert not any(p.requires_grad for p in got.parameters())


def test_a_file_in_half_precision_is_used_in_single(tmp_path):
    """As what it holds, and near what was saved: 2⁻¹¹ of a parameter."""
    made, path = drawn(fast=False), tmp_path / "s.safetensors"
    weights.save(path, {name: p.half() for name, p in made.state_dict().items()}, made.config)
    got, x = priors.load(path), normal(2, F, 9)
    assert {p.dtype for p in got.parameters()} == {torch.float32}
    got.fast = False
    before = made.denoise(x, 0.3)
    mean, variance = distance(got.denoise(x, 0.3), before)
    assert 0 < mean < 2e-3
    assert 0 < variance < 2e-2
    halved = made.half().float().denoise(x, 0.3)
    for one, two in zip(got.denoise(x, 0.3), halved, strict=True):
        assert one.equal(two)


@pytest.mark.parametrize("spoiled", [{"channels": "8 8 8"}, {"told": "True"}, {"n_fft": "64"}, {"hop": "500"}])
def test_a_file_whose_sizes_do_not_fit(tmp_path, spoiled):
    made, path = drawn(), tmp_path / "s.safetensors"
    weights.save(path, made.state_dict(), made.config | spoiled)
    with pytest.raises(weights.WeightsError, match="expected a whole score with its sizes"):
        priors.load(path)
    bare = {key: value for key, value in made.config.items() if key not in spoiled}
    weights.save(path, made.state_dict(), bare)
    with pytest.raises(weights.WeightsError, match="expected a whole score with its sizes"):
        priors.load(path)


def test_its_file_is_small_enough_for_the_repository():
    for told in (False, True):
        assert 2 * sum(p.numel() for p in Denoiser(told=told).parameters()) < 0.95 * 2**23
