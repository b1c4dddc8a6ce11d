"""Draws depend on the seed of their own utterance and on nothing else."""

import numpy as np
import pytest
import torch

from sepriors.signal.rng import clone, generators, rand, rand_like, randn, randn_like


@pytest.mark.parametrize("draw", [rand, randn])
def test_an_utterance_draws_alike_alone_and_in_company(draw):
    like = torch.zeros(1, dtype=torch.float64)
    gpu_batch_size = draw((3, 5), generators([7, 8, 9], 3), like)
    assert gpu_batch_size.shape == (3, 3, 5)
    assert gpu_batch_size.dtype == torch.float64
    for seed, row in zip((7, 8, 9), gpu_batch_size, strict=True):
        assert draw((3, 5), generators(seed, 1), like)[0].equal(row)
    assert not gpu_batch_size[0].equal(gpu_batch_size[1])


@pytest.mark.parametrize(("like", "draw"), [(rand_like, rand), (randn_like, randn)])
@pytest.mark.parametrize("dim", [0, 1, -3])
def test_draws_like_a_tensor_follow_the_generators_along_one_dimension(like, draw, dim):
    x = torch.zeros(4, 3, 2, 5, dtype=torch.float64)
    got = like(x, generators(range(x.shape[dim]), x.shape[dim]), dim=dim)
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    event = [n for i, n in enumerate(x.shape) if i != dim % 4]
    for b in range(x.shape[dim]):
        assert got.select(dim, b).equal(draw(event, generators(b, 1), x)[0])


def test_a_fork_goes_on_and_leaves_the_original_where_it_is():
    like = torch.zeros(1)
    g = generators([1, 2], 2)
    randn((3,), g, like)
    twins = clone(g)
    first = randn((4,), twins, like)
    assert randn((4,), clone(g), like).equal(first)
    assert randn((4,), g, like).equal(first)
    assert not randn((4,), g, like).equal(first)


def test_the_distributions():
    like = torch.zeros(1, dtype=torch.float64)
    u, z = rand((100_000,), generators(0, 1), like), randn((100_000,), generators(0, 1), like)
    assert u.min() >= 0
    assert u.max() < 1
    torch.testing.assert_close(u.mean(), torch.tensor(0.5, dtype=u.dtype), atol=5e-3, rtol=0)
    torch.testing.assert_close(u.var(), torch.tensor(1 / 12, dtype=u.dtype), atol=2e-3, rtol=0)
    torch.testing.assert_close(z.mean(), torch.tensor(0.0, dtype=u.dtype), atol=0.01, rtol=0)
    torch.testing.assert_close(z.var(), torch.tensor(1.0, dtype=u.dtype), atol=0.02, rtol=0)


def test_one_integer_seeds_all_alike_whatever_kind_of_integer():
    a, b = randn((4,), generators(3, 2), torch.zeros(1))
    assert a.equal(b)
    assert a.equal(randn((4,), generators(np.int64(3), 1), torch.zeros(1))[0])
    assert a.equal(randn((4,), generators((3,), 1), torch.zeros(1))[0])


def test_a_global_seed_is_neither_used_nor_touched():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = randn((4,), generators(1, 1), torch.zeros(1))
    assert torch.random.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert randn((4,), generators(1, 1), torch.zeros(1)).equal(first)


def test_seeds_that_do_not_fit():
    with pytest.raises(ValueError, match="expected 2 seeds, one an utterance, got 3"):
        generators([1, 2, 3], 2)
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="expected a seed of 64 bits"):
            generators(seed, 1)
    assert len(generators([-1, 2**64 - 1], 2)) == 2


SEEDS = [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), torch.tensor([1, 2, 3]), range(1, 4), [np.int64(1), np.uint8(2), 3]]


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda s: type(s).__name__)
def test_seeds_of_any_kind(seeds):
    expected = [g.initial_seed() for g in generators([1, 2, 3], 3)]
    assert [g.initial_seed() for g in generators(seeds, 3)] == expected
    assert [g.initial_seed() for g in generators(np.int32(5), 2)] == [5, 5]
    assert [g.initial_seed() for g in generators(np.array(5), 2)] == [5, 5]


@pytest.mark.parametrize(
    "seed", [None, 1.5, "1", True, np.float64(2.0), [1, 2.5], np.array([0.5, 1.0]), {1: 2}], ids=str
)
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="expected a seed that is an integer, or one an utterance, got"):
        generators(seed, 2)
