"""Draws depend on the seed of their own utterance and on nothing else."""

import numpy as np
import pytest
import torch

from sepriors.signal.rng import clone, generators, rand, rand_like, randn, randn_like

LIKE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("draw", "like", "mean", "variance"), [(rand, rand_like, 0.5, 1 / 12), (randn, randn_like, 0, 1)]
)
def test_an_utterance_draws_alike_alone_and_in_company(draw, like, mean, variance):
    """Along whatever dimension; of the right distribution, dtype, and without the global random state."""
    before = torch.get_rng_state()
    many = draw((3, 40_000), generators([7, 8, 9], 3), LIKE)
    assert many.dtype == torch.float64
    for seed, row in zip((7, 8, 9), many, strict=True):
        assert draw((3, 40_000), generators(seed, 1), LIKE)[0].equal(row)
    assert not many[0].equal(many[1])
    torch.testing.assert_close(many.mean(), torch.tensor(mean).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(many.var(), torch.tensor(variance).double(), atol=0, rtol=0.01)
    x = torch.zeros(4, 3, 2, 5, dtype=torch.float64)
    for dim in (0, 1, -3):
        got = like(x, generators(range(x.shape[dim]), x.shape[dim]), dim=dim)
        event = [n for i, n in enumerate(x.shape) if i != dim % 4]
        for b, part in enumerate(got.unbind(dim)):
            assert part.equal(draw(event, generators(b, 1), x)[0])
    assert torch.get_rng_state().equal(before)


def test_a_clone_goes_on_and_leaves_the_original_where_it_is():
    g = generators([1, 2], 2)
    randn((3,), g, LIKE)
    first = randn((4,), clone(g), LIKE)
    assert randn((4,), g, LIKE).equal(first)
    assert not randn((4,), g, LIKE).equal(first)


@pytest.mark.parametrize(
    "seeds",
    [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), torch.tensor([1, 2, 3]), range(1, 4), [np.int64(1), np.uint8(2), 3]],
    ids=lambda s: type(s).__name__,
)
def test_seeds_of_any_kind(seeds):
    assert [g.initial_seed() for g in generators(seeds, 3)] == [1, 2, 3]


def test_one_integer_seeds_all_alike():
    for seed in (5, np.int32(5), np.array(5)):
        assert [g.initial_seed() for g in generators(seed, 2)] == [5, 5]
    assert len(generators([-1, 2**64 - 1], 2)) == 2


@pytest.mark.parametrize(("seed", "message"), [
    *((s, "a seed that is an integer, or one an utterance, got") for s in (None, 1.5, "1", True, [1, 2.5], {1: 2})),
    ([1, 2, 3], "2 seeds, one an utterance, got 3"),
    (2**64, "a seed of 64 bits"),
    (-(2**63) - 1, "a seed of 64 bits"),
], ids=str)  # fmt: skip
def test_what_is_no_seed(seed, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        generators(seed, 2)
