"""Training in several processes, by Lightning Fabric: one set of weights, one checkpoint, one who writes."""

import sys

import pytest
import torch
from conftest import process

from sepriors.lab.training import fitting

# Two processes run this, and each leaves what it found
TWO = """
import sys
from pathlib import Path

import torch
from test_fitting import Broken, flat, line, run

from sepriors.lab.training import fitting
from sepriors.lab.training.fitting import fit

folder, found = Path(sys.argv[1]), {}
fabric = fitting.init_distributed(devices=2, accelerator="cpu")
rank = fabric.global_rank

# what each draws, and where the weights go
generator, drawn, costs, asked = torch.Generator().manual_seed(0), [], [], []
truth = torch.eye(3, dtype=torch.float64)

def draw(g):
    drawn.append(torch.randn(4, 3, generator=g, dtype=torch.float64))
    return drawn[-1]

def loss(model, x, g, done):
    costs.append((model(x) - x @ truth).square().mean())
    return costs[-1]

made = line()
with torch.no_grad():
    made.weight += rank  # the first one's weights are what counts
fitted = fit(made, draw, loss, steps=100, learning_rate=0.1, warm=1, generator=generator, progress=False,
             validate=lambda model: asked.append(rank) or float(flat(model).sum()), validations=4, fabric=fabric)
found |= {"weights": flat(made), "averaged": flat(fitted.model), "curve": fitted.curve, "asked": len(asked),
          "drawn": torch.stack(drawn), "costs": [float(c.detach()) for c in costs], "state": generator.get_state()}

# a run that is broken off; both break at the same step, which is not one of a checkpoint
path = folder / "run.checkpoint"
found["whole"] = flat(run(fabric=fabric).model)
for broken in (11, 6):
    try:
        run(path, broken=broken, fabric=fabric)
    except Broken:
        found["broken"] = found.get("broken", 0) + 1
again = run(path, seed=7, fabric=fabric)
found |= {"resumed": flat(again.model), "resumed_curve": again.curve}

# what goes wrong for the first goes wrong for all
def error(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

atomic_write = fitting.atomic_write
def full(path):
    raise OSError(28, "No space left on device")
fitting.atomic_write = full
found["full"] = error(lambda: run(folder / "other.checkpoint", fabric=fabric))
fitting.atomic_write = atomic_write
found["seed"] = error(lambda: run(path, about="another", fabric=fabric))
fabric.barrier()
if rank == 0:
    path.write_bytes(path.read_bytes()[:100])
found["damaged"] = error(lambda: run(path, fabric=fabric))

# gradients
parts = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)] + [torch.nn.Parameter(torch.zeros(2), False)]
parts[0].grad = torch.tensor([1.0, 10.0]) * (rank + 1)
parts[1].grad = torch.tensor([4.0, 6.0]) if rank else None
cost = fitting._all_reduce(fabric, torch.nn.ParameterList(parts), torch.tensor(float(rank)))
found |= {"gradients": [p.grad for p in parts], "cost": float(cost)}
torch.save(found, folder / f"{rank}.pt")
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes found, the first one first."""
    folder = tmp_path_factory.mktemp("fabric")
    (folder / "two.py").write_text(TWO)
    done = process(folder / "two.py", folder, cwd=None)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_both_have_the_same_weights_and_the_cost_falls(ranks):
    a, b = ranks
    assert a["weights"].equal(b["weights"])
    assert a["averaged"].equal(b["averaged"])
    assert not a["averaged"].equal(a["weights"])
    assert a["curve"] == b["curve"]
    assert (a["asked"], b["asked"]) == (4, 0)
    for found in ranks:
        assert sum(found["costs"][-10:]) < 0.1 * sum(found["costs"][:10])


def test_each_draws_its_own_batches(ranks):
    a, b = (found["drawn"] for found in ranks)
    alone = torch.Generator().manual_seed(0)
    assert a.equal(torch.stack([torch.randn(4, 3, generator=alone, dtype=torch.float64) for _ in range(100)]))
    together = torch.cat([a, b]).flatten(1)
    assert len(together.unique(dim=0)) == 200
    assert ranks[0]["state"].equal(alone.get_state())
    assert ranks[1]["state"].equal(alone.get_state())  # what comes after the fit is one thing again


def test_gradients_and_cost_are_averaged(ranks):
    for found in ranks:
        first, second, third, frozen = found["gradients"]
        assert first.tolist() == [1.5, 15.0]
        assert second.tolist() == [2.0, 3.0]
        assert third is None
        assert frozen is None
        assert found["cost"] == 0.5


def test_a_broken_run_ends_as_an_unbroken_one(ranks):
    for found in ranks:
        assert found["broken"] == 2
        assert found["resumed"].equal(found["whole"])
        assert len(found["resumed_curve"]) == 5


def test_errors_of_the_first_end_all(ranks):
    for found in ranks:
        assert found["full"] == "OSError: [Errno 28] No space left on device"
        expected = "expected a run of 20 steps another, 2 processes, got one of 20 steps, 2 processes; delete"
        assert expected in found["seed"]
        assert found["seed"].startswith("WeightsError")
        assert "expected a whole checkpoint of this recipe" in found["damaged"]


def test_two_processes_take_the_step_of_their_mean_gradient(ranks):
    """Adam's first steps, done by hand on the batches that the two have drawn."""
    made = torch.nn.Linear(3, 3, dtype=torch.float64)
    for p in made.parameters():
        torch.nn.init.constant_(p, 0.5)
    batches = torch.cat([found["drawn"] for found in ranks], 1)  # one batch as large as both
    fitted = fitting.fit(
        made, iter_draw(batches), lambda model, x, g, done: (model(x) - x).square().mean(), steps=100,
        learning_rate=0.1, warm=1, generator=torch.Generator(), progress=False,
    )  # fmt: skip
    flat = torch.nn.utils.parameters_to_vector(fitted.model.parameters()).detach()
    torch.testing.assert_close(flat, ranks[0]["averaged"], rtol=1e-6, atol=1e-9)


def iter_draw(batches):
    left = iter(batches)
    return lambda g: next(left)


def test_one_device_needs_no_fabric(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert fitting.init_distributed() is None
    with pytest.raises(fitting.FabricError, match=r"pip install 'sepriors\[fabric\]'"):
        fitting.init_distributed(devices=2)


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(fitting.FabricError, match="2 devices, None nodes, accelerator cuda: "):
        fitting.init_distributed(devices=2, accelerator="cuda")
    with pytest.raises(fitting.FabricError, match="accelerator abacus: "):
        fitting.init_distributed(devices=2, accelerator="abacus")
