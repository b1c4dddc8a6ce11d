"""Climbs that are watched: what the rows say at the start is known, and a peak is found by other files than its own."""

import pandas as pd
import pytest

from sepriors.lab.climbs import MEASURES, cross_fitted, excerpts, watch
from sepriors.priors import load


def test_a_climb_starts_at_the_mixture_and_gains_likelihood(toy):
    """The distance of a mixture to its speech is minus its SNR; uncorrelated noise adds its power."""
    rows = toy.select(kind="speech", split="test")
    clean, speakers = excerpts(toy, rows, 2, length=8000)
    assert clean.shape == (2, 8000)
    assert set(speakers) <= set(rows["speaker"].astype(str))
    found = watch(load("waveglow"), clean, 6.0, steps=4, every=2)
    assert found["step"].tolist() == [0, 0, 2, 2, 4, 4]
    assert {"nats", "clean_nats", "distance", "energy", *MEASURES} < set(found)
    start, end = (found[found["step"] == step].set_index("file") for step in (0, 4))
    assert start["distance"].tolist() == pytest.approx([-6.0, -6.0], abs=1e-3)
    assert start["energy"].tolist() == pytest.approx([0.97, 0.97], abs=0.2)  # 1 + 10^-.6 in power
    assert (end["nats"] > start["nats"]).all()


def test_excerpts_are_no_pauses(toy):
    """Of half the power of some file at least, and the same for the same seed."""
    rows = toy.select(kind="speech", split="test")
    quietest = min(float(toy.read(path).square().mean()) for path in rows["path"])
    clean, _ = excerpts(toy, rows, 3, seed=1, length=4000)
    assert (clean.square().mean(-1) > 0.5 * quietest).all()
    assert clean.equal(excerpts(toy, rows, 3, seed=1, length=4000).clean)


def test_a_peak_of_chance_is_none():
    """Two halves that peak at different steps: each is judged at the other's peak, so neither rise is its own best."""
    rows = [
        {"file": i, "step": step, "x": value}
        for i, course in enumerate([[0, 3, 1], [0, 1, 3], [0, 3, 1], [0, 1, 3]])
        for step, value in enumerate(course)
    ]
    moved = cross_fitted(pd.DataFrame(rows), "x")
    assert moved["rise"].tolist() == [1, 1, 1, 1]
    assert moved["fall"].tolist() == [0, -2, 0, -2]


def test_files_that_agree_rise_and_fall():
    table = pd.DataFrame({"file": [0] * 3 + [1] * 3, "step": [0, 1, 2] * 2, "x": [0.0, 2.0, 1.5] * 2})
    assert cross_fitted(table, "x").to_numpy().tolist() == [[2.0, 0.5]] * 2
