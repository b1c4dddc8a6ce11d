"""The flow is autoregressive, invertible, and a density that integrates to one."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sepriors import priors, weights
from sepriors.priors import MAF
from sepriors.priors.maf import Ensemble
from sepriors.signal.rng import generators


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(features=2, blocks=5, hidden=16, *, seed=0, dtype=torch.float64, spread=0.3, **choices):
    """A flow whose map bends, at a scale of about one; with no `spread` it does nothing but divide by `rms`."""
    g = torch.Generator().manual_seed(seed)
    made = MAF(features, blocks, hidden, **choices)
    made.start(g)
    for name, p in made.named_parameters():
        if not spread and name.startswith("transform"):
            p.data.zero_()
        p.data += (spread or 0.3 * ("transform" not in name)) * torch.randn(p.shape, generator=g)
        if name.endswith("final_layer.bias"):
            p.data[::2] += math.log(math.expm1(1 - 1e-3))  # nflows' scale: softplus, and .001
    return made.to(dtype).requires_grad_(False).eval()


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


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("components", [1, 3])
def test_the_density_integrates_to_one(components, seed):
    made = drawn(2, 3, components=components, seed=seed, rms=0.5, spread=0.2)
    side = torch.linspace(-12, 12, 401, dtype=torch.float64)
    total = made.log_prob(torch.cartesian_prod(side, side)).exp().sum() * 0.06**2
    assert total == pytest.approx(1, abs=1e-3)


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


def test_moments_of_samples():
    """Of a flow that does nothing: those of its base, times `rms`; four standard errors."""
    count = 40_000
    for components in (1, 3):
        made = drawn(components=components, rms=0.1, spread=0)
        x = made.sample(count, generators(0, 1)).reshape(count, 2) / 0.1
        mean, variance = torch.zeros(2).double(), torch.ones(2).double()
        if components > 1:
            odds, stds = made.weights.softmax(0)[:, None], made.log_stds.exp()
            mean = (odds * made.means).sum(0)
            variance = (odds * (stds**2 + made.means**2)).sum(0) - mean**2
        assert ((x.mean(0) - mean).abs() < 4 * (variance / count).sqrt()).all()
        error = ((x - mean) ** 2).std(0) / count**0.5
        assert ((x.var(0) - variance).abs() < 4 * error).all()


def test_samples_have_the_density():
    """E 1/p(x) over a box is the box's area, of a flow that bends."""
    made = drawn(2, 3, components=3, spread=0.2)
    x = made.sample(25_000, generators([1, 2], 2)).reshape(-1, 2)
    inside = (x - x.median(0).values).abs().amax(-1) < 0.3
    values = inside / made.log_prob(x).exp()
    assert abs(values.mean() - 0.36) < 4 * values.std() / len(x) ** 0.5
    assert values.std() / len(x) ** 0.5 < 0.01


def test_a_sample_has_a_generator_of_its_own():
    made = drawn(components=3, dtype=torch.float32)
    x = made.sample(50, generators([1, 2, 1], 3))
    assert x.shape == (3, 100)
    assert x[0].equal(x[2])
    assert not x[0].equal(x[1])
    torch.testing.assert_close(made.sample(50, generators(2, 1))[0], x[1])


def test_a_start_depends_on_the_generator_alone():
    states = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(i)
        made = MAF(4, 3, 8, components=3)
        made.start(torch.Generator().manual_seed(seed))
        states.append(torch.cat([p.flatten() for p in made.state_dict().values()]))
    assert states[0].equal(states[1])
    assert not states[0].equal(states[2])


def test_windows_are_independent():
    made, s = drawn(8, rms=0.03), 0.03 * normal(2, 3, 40)
    together = made.log_prob(s)
    assert together.shape == (2, 3)
    torch.testing.assert_close(together, sum(made.log_prob(window) for window in s.split(8, dim=-1)))
    for i in range(2):
        torch.testing.assert_close(made.log_prob(s[i]), together[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_utterance_is_alike_alone_and_in_company(dtype):
    made, s = drawn(80, 2, dtype=dtype, rms=0.03), 0.03 * normal(5, 2000, dtype=dtype)
    together, z = made.log_prob(s), made(s).z
    for b in range(5):  # but for the last bits: nflows folds a batch into one product
        torch.testing.assert_close(made.log_prob(s[b : b + 1])[0], together[b])
        torch.testing.assert_close(made(s[b : b + 1]).z[0], z[b])


@pytest.mark.parametrize("length", [0, 1, 7, 9])
def test_a_length_that_windows_do_not_fill(length):
    with pytest.raises(ValueError, match=f"expected a multiple of 8 samples, got N={length}"):
        drawn(8).log_prob(normal(2, length))


@pytest.mark.parametrize("kind", [{}, {"features": 8, "rms": 1 / 3, "clean": 2.5}, {"components": 3, "blocks": 2}])
def test_a_flow_comes_back_from_its_file(tmp_path, kind):
    made, path = drawn(dtype=torch.float32, **kind), tmp_path / "f.safetensors"
    weights.save(path, made.tensors, made.config)
    got, s = priors.load(path), normal(3, 2 * made.window, dtype=torch.float32)
    assert got.config == made.config
    assert (got.rms, got.clean, got.components) == (made.rms, made.clean, made.components)
    assert got.log_prob(s).equal(made.log_prob(s))
    half = {name: p.half() for name, p in made.tensors.items()}
    weights.save(path, half, made.config)
    assert {p.dtype for p in priors.load(path).parameters()} == {torch.float32}
    torch.testing.assert_close(priors.load(path).log_prob(s), made.log_prob(s), rtol=0.02, atol=0.02)


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
