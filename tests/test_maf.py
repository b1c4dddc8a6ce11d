"""The flow is autoregressive, invertible, and a density that integrates to one."""

import math

import pytest
import torch
from conftest import alike, moved, normal
from torch.autograd.functional import jacobian
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sepriors.priors import MAF
from sepriors.priors.maf import Ensemble
from sepriors.signal.rng import generators


def drawn(features=2, blocks=5, hidden=16, *, seed=0, spread=0.3, **choices):
    """A flow whose map bends, at a scale of about one."""
    made = moved(MAF(features, blocks, hidden, **choices), seed=seed, by=lambda name: spread)
    for name, p in made.named_parameters():
        if name.endswith("final_layer.bias"):
            p[::2] += math.log(math.expm1(1 - 1e-3))  # nflows' scale: softplus, and .001
    return made


@pytest.mark.parametrize("kind", [{}, {"components": 3}, {"features": 7, "rms": 0.03}, {"features": 3, "blocks": 1}])
def test_the_inverse_and_the_volume(kind):
    made = drawn(**kind)
    s = made.rms * normal(3, 4 * made.window)
    z, log_det = made(s)
    torch.testing.assert_close(made.inverse(z), s, atol=1e-10, rtol=0)
    for b in range(3):
        J = jacobian(lambda u: made(u).z, s[b])
        torch.testing.assert_close(log_det[b], torch.linalg.slogdet(J).logabsdet)
    assert log_det.std() > 1e-3
    base = made.log_base(z.unflatten(-1, (4, made.window))).sum(-1)
    torch.testing.assert_close(made.log_prob(s), base + log_det)
    if made.components == 1:
        torch.testing.assert_close(base, Normal(0, 1).log_prob(z).sum(-1))


def test_a_feature_depends_on_those_before_it():
    """The block after the reversal on those after it; each is stretched, never mirrored."""
    J = jacobian(lambda s: drawn(6, 1)(s).z, normal(6))
    assert J.triu(1).eq(0).all()
    assert J.diagonal().min() > 0
    assert J.tril(-1).ne(0).sum() == 15
    two = jacobian(lambda s: drawn(6, 2)(s).z, normal(6))
    assert two.ne(0).sum() > 30


def test_the_base_is_the_mixture_of_its_parameters():
    made, z = drawn(components=3), normal(50, 2)
    each = Independent(Normal(made.means, made.log_stds.exp()), 1)
    exact = MixtureSameFamily(Categorical(logits=made.weights), each).log_prob(z)
    torch.testing.assert_close(made.log_base(z), exact)
    assert made.weights.std() > 0.1


def test_samples_have_the_density():
    """E 1/p(x) over a box is the box's area, of a flow that bends."""
    made = drawn(2, 3, components=3, spread=0.2)
    x = made.sample(25_000, generators([1, 2], 2)).reshape(-1, 2)
    inside = (x - x.median(0).values).abs().amax(-1) < 0.3
    values = inside / made.log_prob(x).exp()
    assert abs(values.mean() - 0.36) < 4 * values.std() / len(x) ** 0.5
    assert values.std() / len(x) ** 0.5 < 0.01


def test_a_sample_has_a_generator_of_its_own():
    made = drawn(components=3)
    x = made.sample(50, generators([1, 2, 1], 3))
    assert x.shape == (3, 100)
    assert alike(x[0], x[2])  # nflows folds a batch into one product
    assert not x[0].equal(x[1])
    assert alike(made.sample(50, generators(2, 1))[0], x[1])


def test_windows_are_independent():
    made, s = drawn(8, rms=0.03), 0.03 * normal(2, 3, 40)
    together = made.log_prob(s)
    assert together.shape == (2, 3)
    torch.testing.assert_close(together, sum(made.log_prob(window) for window in s.split(8, dim=-1)))
    for i in range(2):
        torch.testing.assert_close(made.log_prob(s[i]), together[i])


@pytest.mark.parametrize("length", [0, 1, 7, 9])
def test_a_length_that_windows_do_not_fill(length):
    with pytest.raises(ValueError, match=f"expected a multiple of 8 samples, got N={length}"):
        drawn(8).log_prob(normal(2, length))


def test_an_ensemble_is_its_flows():
    flows, x = [drawn(seed=i, components=2) for i in range(3)], normal(3, 20, 2)
    made = Ensemble(flows)
    exact = torch.stack([flow.log_prob(points) for flow, points in zip(flows, x)])
    torch.testing.assert_close(made.log_prob(x), exact)
    for p in made.parameters():  # as training does, in place
        p.data *= 1.1
    back = made.flows()
    torch.testing.assert_close(torch.stack([f.log_prob(y) for f, y in zip(back, x)]), made.log_prob(x))
    assert not torch.allclose(made.log_prob(x), exact)
    torch.testing.assert_close(flows[0].log_prob(x[0]), exact[0])  # what it was made from stays
