"""A run that was broken off ends as if it had not been, and a checkpoint is whole or refused."""

import math
from itertools import pairwise

import pytest
import torch

from sepriors.lab.training import fitting
from sepriors.lab.training.fitting import fit
from sepriors.weights import WeightsError


class Broken(Exception):
    pass


def line(size=3):
    made = torch.nn.Linear(size, size, dtype=torch.float64)
    for p in made.parameters():
        torch.nn.init.constant_(p, 0.5)
    return made


def run(checkpoint=None, *, steps=20, broken=None, size=3, seed=0, fresh=None, **choices):
    """A short fit whose points and loss are drawn; `broken` off as soon as so many batches have been drawn."""
    made, left = fresh or line(size), broken

    def draw(g):
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                raise Broken
        return torch.randn(4, size, generator=g, dtype=torch.float64)

    def loss(model, x, g, done):
        return (model(x) - torch.randn(4, size, generator=g, dtype=torch.float64)).square().mean()

    choices = {"validate": lambda model: float(model.weight.detach().sum()), "validations": 5} | choices
    generator = torch.Generator().manual_seed(seed)
    return fit(made, draw, loss, steps=steps, learning_rate=10.0, generator=generator, checkpoint=checkpoint,
               progress=False, **choices)  # fmt: skip


def ones(made, loss, **choices):
    """A fit whose points are ones, of eight steps unless said otherwise."""
    choices = {"steps": 8, "learning_rate": 1.0, "generator": torch.Generator().manual_seed(0)} | choices
    return fit(made, lambda g: torch.ones(1, 3, dtype=torch.float64), loss, progress=False, **choices)


def flat(made):
    return torch.nn.utils.parameters_to_vector(made.parameters()).detach()


# ------------------------------------------------------------- resume


@pytest.mark.parametrize("breaks", [[1], [4], [5], [18], [9, 2, 5]])
def test_a_broken_run_ends_as_an_unbroken_one(tmp_path, breaks):
    """To the last bit, wherever it breaks: 4 steps lie between checkpoints, and what comes after one is done again."""
    path, whole = tmp_path / "new" / "run.checkpoint", run()
    for broken in breaks:
        with pytest.raises(Broken):
            run(path, broken=broken)
    got = run(path, seed=1 if path.is_file() else 0)  # the generator goes on from the checkpoint's state
    assert flat(got.model).equal(flat(whole.model))
    assert got.curve == whole.curve
    assert len(set(got.curve)) == 5


def test_what_was_done_is_not_done_again(tmp_path):
    path = tmp_path / "run.checkpoint"
    for _ in range(2):  # the last checkpoint is that of step 8; then it goes on to step 19, which makes that of step 16
        with pytest.raises(Broken):
            run(path, broken=11)
    state = torch.load(path, weights_only=True)
    assert (state["step"], state["run"], len(state["curve"])) == (16, "20 steps", 4)
    first = run(path)
    again = run(path, broken=0)  # done: it draws no more
    assert flat(again.model).equal(flat(first.model))
    assert again.curve == first.curve
    assert again.seconds > torch.load(path, weights_only=True)["seconds"] > state["seconds"] > 0


@pytest.mark.fault("A checkpoint is cut off, or is something else", "WeightsError that says what to delete")
@pytest.mark.parametrize("other", [0.0, 0.5, 0.999, b"no checkpoint\n", [1, 2], {}, {"steps": 20}])
def test_a_damaged_checkpoint(tmp_path, other):
    """Cut off after that part of its bytes, or something else."""
    path = tmp_path / "run.checkpoint"
    run(path)
    data = path.read_bytes()
    if isinstance(other, list | dict):
        torch.save(other, path)
    else:
        path.write_bytes(data[: int(other * len(data))] if isinstance(other, float) else other)
    with pytest.raises(WeightsError, match=r"(?s)run\.checkpoint: expected a whole checkpoint.*delete .* to start"):
        run(path)


@pytest.mark.fault("A checkpoint is of another run", "WeightsError that names both runs")
def test_a_checkpoint_of_another_run(tmp_path):
    path = tmp_path / "run.checkpoint"
    run(path)
    with pytest.raises(WeightsError, match=r"run\.checkpoint: expected a run of 24 steps, got one of 20 steps; delete"):
        run(path, steps=24)
    with pytest.raises(WeightsError, match="expected a run of 20 steps seed 1, got one of 20 steps; delete"):
        run(path, about="seed 1")
    with pytest.raises(WeightsError, match=r"(?s)expected a whole checkpoint of this recipe, got .*size mismatch"):
        run(path, size=4)
    with pytest.raises(WeightsError, match="expected a whole checkpoint of this recipe"):
        run(path, fresh=torch.nn.Sequential(line()), validate=None)


@pytest.mark.fault(
    "The disk is full while a checkpoint is written",
    "The old checkpoint is whole, and the run goes on from it",
)
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Broken):
        run(path, broken=5)
    before = path.read_bytes()

    def half(state, file):
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fitting.torch, "save", half)
        with pytest.raises(OSError, match="No space left"):
            run(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert flat(run(path).model).equal(flat(run().model))


# ------------------------------------------------------------- what it does


def walk(steps, **choices):
    """Where one parameter goes whose gradient is always 1, after each step; and what the fit returns."""
    made, places = torch.nn.ParameterList([torch.zeros((), dtype=torch.float64)]), []

    def loss(model, x, g, done):
        places.append(float(model[0].detach()))
        return model[0].clone()

    validate = lambda model: float(model[0].detach())  # noqa: E731
    fitted = ones(made, loss, steps=steps, validate=validate, validations=steps, **choices)
    return [*places[1:], float(made[0].detach())], fitted


def test_the_rate_rises_and_falls_by_a_cosine_to_its_hundredth():
    """Adam's step is its rate where the gradient is constant."""
    places, _ = walk(400, warm=100)
    for i, (before, after) in enumerate(pairwise([0.0, *places])):
        exact = min(1, (i + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * i / 400)))
        assert before - after == pytest.approx(exact, rel=1e-6)


def test_the_average():
    """A plain mean of a thousand steps, without the start; then each step weighs a thousandth. `validate` sees it."""
    places, fitted = walk(1200)
    for n in (1, 2, 10, 1000):
        assert fitted.curve[n - 1] == pytest.approx(sum(places[:n]) / n)
    for n in range(1000, 1200):
        assert fitted.curve[n] == pytest.approx(0.999 * fitted.curve[n - 1] + 0.001 * places[n])
    assert float(fitted.model[0].detach()) == fitted.curve[-1]


@pytest.mark.parametrize(("steps", "validations", "expected"), [(20, 5, 5), (3, 20, 3), (7, 1, 1)])
def test_the_curve(steps, validations, expected):
    seen = []
    fitted = run(steps=steps, validations=validations, validate=lambda model: seen.append(flat(model)) or len(seen))
    assert fitted.curve == list(range(1, expected + 1))
    assert seen[-1].equal(flat(fitted.model))
    assert run(steps=steps, validate=None).curve == []


def test_gradients_are_clipped():
    """Those of norm 1 and those of norm 1000 count alike; without `clip` they do not."""

    def trained(factor, clip):
        made = line()

        def loss(model, x, g, done):
            loud = factor ** float(torch.rand((), generator=g) < 0.5)
            x = torch.randn(3, 3, generator=g, dtype=torch.float64)
            return loud * (model.weight * x).sum() / x.norm()

        return ones(made, loss, steps=20, clip=clip).model.weight.detach()

    torch.testing.assert_close(trained(1000.0, 0.5), trained(1.0, 0.5), rtol=1e-4, atol=0)
    assert not torch.allclose(trained(1000.0, math.inf), trained(1.0, math.inf), rtol=1e-2)


def test_parts_with_rates_of_their_own():
    """A part that learns half as fast moves half as far in Adam's first step, the others as ever."""
    made = torch.nn.ModuleDict({"a": line(), "b": line()})

    loss = lambda model, x, g, done: model["a"](x).sum() + model["b"](x).sum()  # noqa: E731
    moved = ones(made, loss, steps=1, learning_rate=0.01, warm=1, rates={"b": 0.5}).model
    a, b = (flat(part) - 0.5 for part in (moved["a"], moved["b"]))
    torch.testing.assert_close(a, 2 * b)
    assert a.abs().min() > 0
    assert [len(group["params"]) for group in fitting._parameter_groups(made, 1.0, {"b": 0.5})] == [2, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_back_to_the_best_where_it_diverges(tmp_path, value):
    """The model of the highest validation so far, also when a resumed run diverges; and the step is named."""
    scores = {2: 1.0, 4: 5.0, 6: 3.0, 8: 2.0}

    def run(diverges, checkpoint=None, broken=None):
        count = [6 if checkpoint is not None and checkpoint.is_file() else 0]

        def loss(model, x, g, done):
            count[0] += 1
            if count[0] == broken:
                raise Broken
            return model(x).sum() * (value if count[0] == diverges else 1)

        choices = {"warm": 1, "validations": 4, "validate": lambda m: scores[count[0]], "checkpoint": checkpoint}
        return ones(line(), loss, best_if_diverged=True, **choices)

    got, shorter = run(diverges=7), run(diverges=5)
    assert (got.diverged, got.curve) == (7, [1.0, 5.0, 3.0])
    assert (shorter.diverged, shorter.curve) == (5, [1.0, 5.0])
    assert flat(got.model).equal(flat(shorter.model))
    assert run(diverges=None).diverged is None
    with pytest.raises(Broken):
        run(diverges=None, checkpoint=tmp_path / "run", broken=7)
    resumed = run(diverges=7, checkpoint=tmp_path / "run")
    assert resumed.diverged == 7
    assert flat(resumed.model).equal(flat(got.model))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite(tmp_path, value):
    """It stops the run where clipping is asked for, and the checkpoint before it stays."""
    path, count = tmp_path / "run.checkpoint", [0]

    def loss(model, x, g, done):
        count[0] += 1
        return model(x).sum() * (value if count[0] == 6 else 1)

    with pytest.raises(RuntimeError, match="expected a finite cost and gradient, got"):
        ones(line(), loss, steps=20, clip=1.0, validations=5, checkpoint=path)
    state = torch.load(path, weights_only=True)
    assert state["step"] == 4
    assert all(p.isfinite().all() for p in state["model"].values())


def test_the_model_may_compute_in_half_precision():
    kinds = []

    def loss(model, x, g, done):
        kinds.append(model(x.float()).dtype)
        return model(x.float()).sum()

    for fast in (False, True):
        assert ones(torch.nn.Linear(3, 3), loss, steps=1, fast=fast).model.weight.dtype == torch.float32
    assert kinds == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("there", [False, True], ids=["no GPU", "a GPU"])
def test_on_a_gpu_sums_are_in_one_order(monkeypatch, there):
    """So that a seed has one result there, too; broken off or not, the program's own choice is back afterwards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    asked = []

    def watched(model):
        asked.append(torch.are_deterministic_algorithms_enabled())
        return 0.0

    run(validate=watched)
    with pytest.raises(Broken):
        run(validate=watched, broken=10)
    assert set(asked) == {there}
    assert not torch.are_deterministic_algorithms_enabled()
