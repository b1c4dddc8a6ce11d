"""The amortised posterior: its numbers are those of the model, its level is nobody's business, and it learns."""

from dataclasses import replace

import pytest
import torch
from conftest import drawn
from test_train import Watched, seeded

from sepriors import STFT
from sepriors.lab import recipes
from sepriors.priors import NPE
from sepriors.priors.npe import Posterior
from sepriors.signal import gaussian

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
