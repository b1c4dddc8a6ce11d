"""The network's shapes, what it says before it has learned, and that all of it learns."""

from functools import partial

import conftest
import pytest
import torch
from conftest import drawn_score

from sepriors.priors import Denoiser

F = 257
SIZES = [(8, 8), (8, 8, 8)]
normal = partial(conftest.normal, dtype=torch.cfloat)


def fresh(**choices):
    """A small network before training."""
    made = Denoiser(**{"channels": (8, 8), **choices})
    made.start(torch.Generator().manual_seed(0))
    return made


# ------------------------------------------------------------- shapes


@pytest.mark.parametrize(("channels", "frames"), [((8, 8), 1), ((8, 8), 17), ((8, 8, 8), 3), ((8, 8, 8), 16)])
def test_any_length(channels, frames):
    """Whole strides, one frame more, one frame alone: what is missing is silence. The last bin does not matter."""
    made, x = drawn_score(channels=channels), normal(2, F, frames, dtype=torch.cdouble)
    mean, variance = made.denoise(x, 0.5)
    assert mean.shape == variance.shape == (2, F, frames)
    assert not mean[:, -1].any()
    filled = torch.nn.functional.pad(x, (0, -frames % (4 << len(channels) - 1)))
    filled[:, -1] = 1e3
    torch.testing.assert_close(made.denoise(filled, 0.5).mean[..., :frames], mean)
    torch.testing.assert_close(made.denoise(filled, 0.5).variance[..., :frames], variance)


@pytest.mark.parametrize("conditional", [False, True])
def test_leading_dimensions_are_free(conditional):
    made = drawn_score(conditional=conditional)
    x, sigma = normal(3, 2, F, 5, dtype=torch.cdouble), torch.tensor([0.1, 1.0]).double()[:, None, None]
    noisy = normal(2, F, 5, seed=1, dtype=torch.cdouble)
    got = made.denoise(x, sigma, noisy if conditional else None)
    assert got.mean.shape == got.variance.shape == x.shape
    one = made.denoise(x[2, 1], float(sigma[1]), noisy[1] if conditional else None)
    torch.testing.assert_close(one.mean, got.mean[2, 1])
    torch.testing.assert_close(one.variance, got.variance[2, 1])


def test_spectra_that_do_not_fit():
    x = normal(1, F, 5)
    with pytest.raises(ValueError, match="spectrum has F=513 but the network has F=257; one STFT for both"):
        fresh().denoise(normal(1, 513, 5), 0.5)
    with pytest.raises(ValueError, match="expected no noisy spectrum beside x, got one"):
        fresh().denoise(x, 0.5, x)
    with pytest.raises(ValueError, match="expected a noisy spectrum beside x, got none"):
        fresh(conditional=True).denoise(x, 0.5)


# ------------------------------------------------------------- what it says


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("channels", SIZES, ids=str)
def test_before_training_it_is_the_wiener_filter_of_white_speech(channels, conditional):
    """Karras et al. (2022, table 1): c_skip x, whose error at that spread has the variance that it says; 0 above."""
    made, x = fresh(channels=channels, conditional=conditional), normal(3, F, 9)
    for sigma in (0.01, 0.3, 2.5):
        mean, variance = made.denoise(x, sigma, x if conditional else None)
        G = made.sigma_data**2 / (made.sigma_data**2 + sigma**2)
        torch.testing.assert_close(mean[:, :-1], G * x[:, :-1])
        assert not mean[:, -1].any()
        torch.testing.assert_close(variance, torch.full_like(variance, G * sigma**2))
        torch.testing.assert_close(float(made.weight(torch.tensor(sigma))), 1 / (sigma**-2 + made.sigma_data**-2))


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
    made, seen = fresh(conditional=True), {}
    clean, z = (normal(1, F, 64, seed=seed) for seed in (0, 1))

    def network(image, level):
        seen.update(image=image, level=level)
        return torch.zeros(1, 3, F - 1, 64)

    made._network = network
    made.denoise(made.sigma_data * clean + sigma * z, sigma, made.sigma_data * clean)
    x, noisy = (torch.complex(*planes.unbind(1)) for planes in seen["image"].split(2, 1))
    assert float(x.abs().square().mean()) == pytest.approx(1, abs=4 / x.numel() ** 0.5)
    torch.testing.assert_close(noisy, clean[:, :-1])
    torch.testing.assert_close(seen["level"], torch.tensor([[sigma]]).log() / 4)


# ------------------------------------------------------------- gradients, precision


@pytest.mark.parametrize(("channels", "conditional"), [((8, 8), False), ((8, 8, 8), True)])
def test_every_parameter_learns(channels, conditional):
    """At the start the head alone; and once what is zero there has moved, all."""
    made, x = fresh(channels=channels, conditional=conditional), normal(2, F, 16)

    def moving():
        made.zero_grad()
        mean, variance = made.denoise(x, 0.3, normal(2, F, 16, seed=1) if conditional else None)
        (mean.abs().square().sum() + variance.log().sum()).backward()
        return {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}

    assert moving() == {"head.weight", "head.bias"}
    g = torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data += 1e-2 * torch.randn(p.shape, generator=g) * (not p.any())
    assert moving() == {name for name, _ in made.named_parameters()}
