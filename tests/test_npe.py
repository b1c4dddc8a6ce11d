"""The amortised posterior: its numbers are those of the model, its level is nobody's business, and it learns."""

from dataclasses import replace

import pytest
import torch
from conftest import drawn
from test_train import Watched, seeded

from sepriors import STFT
from sepriors.inference.noise_models import Inferred
from sepriors.lab import recipes
from sepriors.priors import NPE
from sepriors.priors.npe import Posterior
from sepriors.signal import gaussian
from sepriors.signal.front_ends import Compressed, PeakNormalised
from sepriors.signal.rng import generators

TRANSFORM = STFT(64, 16)


@pytest.fixture
def net():
    return drawn(NPE(TRANSFORM, width=8, hidden=8), dtype=torch.float32)


def test_the_posterior_is_the_wiener_filters(net):
    """Of the variances that it stands for: V_n as given, V_s = ξ V_n from the gain."""
    X = TRANSFORM(torch.randn(2, 1000, generator=seeded()))
    found = net(X, X.abs().square().mean(-1, keepdim=True))
    gain = found.variance / found.noise
    assert ((gain > 0) & (gain < 1)).all()
    V_s = gain / (1 - gain) * found.noise
    torch.testing.assert_close(found.mean, gaussian.wiener(X, V_s, found.noise), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.variance, V_s * found.noise / (V_s + found.noise), rtol=1e-3, atol=1e-5)


def test_the_noise_power_is_its_posterior_mean():
    """One bin alone: |x - s|² and the variance; over a field of 3 bins and 9 frames."""
    X = torch.randn(1, 5, 11, dtype=torch.cfloat, generator=seeded())
    found = Posterior(0.5 * X, torch.rand(1, 5, 11, generator=seeded()), torch.ones(1, 5, 11))
    power = (0.25 * X.abs().square() + found.variance)[0]
    made = found.noise_power(X)[0]
    torch.testing.assert_close(made[2, 5], power[1:4, 1:10].mean())
    torch.testing.assert_close(made[0, 0], power[:2, :5].mean())


def test_passes_go_on_from_what_was_found(net):
    X = TRANSFORM(torch.randn(1, 1000, generator=seeded()))
    first = net(X, X.abs().square().mean(-1, keepdim=True))
    assert net.posterior(X).mean.equal(net(X, first.noise_power(X)).mean)
    net.passes = 1
    assert net.posterior(X).mean.equal(first.mean)


def test_the_noise_of_mixtures_is_heard_at_their_level(net):
    """Ten times as loud is a hundred times the power; of what the posterior leaves, the mean is the mixture's."""
    x = torch.randn(2, 1000, generator=seeded())
    heard = net.noise_power(x)
    torch.testing.assert_close(net.noise_power(10 * x), 100 * heard, rtol=1e-3, atol=1e-6)
    X = TRANSFORM(x / x.square().mean(-1, keepdim=True).sqrt())
    power = net.posterior(X).noise_power(X) * x.square().mean(-1)[:, None, None]
    torch.testing.assert_close(heard, power, rtol=1e-3, atol=1e-6)


def test_em_begins_with_the_noise_that_is_heard_and_keeps_its_bases(net):
    """At the level of the domain, whose peak is 1: as many decibels below as the domain has turned the mixture down."""
    x = 5 * torch.randn(2, 1000, generator=seeded())
    domain = PeakNormalised(TRANSFORM).bind(x)
    model = Inferred(net, rank=33, iterations=300)  # a base for each bin: the fit can be near
    noise = model.start(x, domain(x), domain, generators(0, 2))
    heard = net.noise_power(x) / x.abs().amax(-1)[:, None, None].square()
    assert ((noise.variance / heard).log().abs().mean() < 0.1).item()
    learned = model.update(noise, domain(x).abs().square()[None], None)
    assert learned.W.equal(noise.W)
    assert not learned.H.equal(noise.H)
    for front_end in (PeakNormalised(STFT(128, 32)), Compressed(TRANSFORM)):
        with pytest.raises(ValueError, match=r"expected plain spectra by STFT\(n_fft=64, hop=16"):
            model.start(x, domain(x), front_end.bind(x), generators(0, 2))


@pytest.mark.parametrize("knowledge", ["generic", "fitted", "recorded"])
def test_it_learns_on_noise_of_each_kind(toy, knowledge, monkeypatch, tmp_path):
    """Its gain on validation mixtures rises; of noise it has read what it is said to know, and no more."""
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path))
    corpus = Watched(toy.root, toy.table, toy.origin)
    made = replace(recipes.RECIPES["npe"].smoke(), knowledge=knowledge, steps=120, batch=8, hidden=16, width=16)
    learned = made.learn(corpus, 0, False)
    curve = learned.facts["valid_si_sdr_gain"]
    assert len(curve) == 4
    assert curve[-1] > curve[0] + 0.5
    assert any(path.startswith("noise/train") for path in corpus.seen) == (knowledge != "generic")
    assert ("noise_minutes" in learned.facts) == (knowledge != "generic")


def test_the_loss_is_least_where_the_posterior_is_true():
    """For x = s + n with known variances, no other gain and no other variance costs less."""
    made, stft = recipes.RECIPES["npe"], STFT(1024, 256)
    clean, noise = (torch.randn(4, 40000, generator=seeded(i)) for i in (1, 2))
    noisy = clean + noise

    class Known(torch.nn.Module):
        def __init__(self, gain, variance):
            super().__init__()
            self.stft, self.gain, self.variance = stft, gain, variance

        def forward(self, X, guess):
            V = torch.full(X.shape, self.variance * float(stft(noise).abs().square().mean()))
            return Posterior(self.gain * X, V, V)

    def cost(gain, variance):
        return float(made.loss(Known(gain, variance), torch.stack([noisy, clean]), seeded(), 0.0))

    best = cost(0.5, 0.5)
    assert all(best < other for other in (cost(0.4, 0.5), cost(0.6, 0.5), cost(0.5, 0.3), cost(0.5, 0.8)))
