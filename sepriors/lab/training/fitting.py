"""The one training loop: Adam, a falling learning rate, averaged weights, a validation curve, and resume.

On several devices, by `lightning.fabric`, each process has the whole model and draws batches of its own; gradients are
averaged, so all take the same step.
"""

import copy
import io
import math
import os
import pickle
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm import tqdm

from sepriors.files import atomic_write, remove_partial
from sepriors.precision import autocast
from sepriors.weights import WeightsError

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, pickle.UnpicklingError)  # what reading a damaged file may raise
Found = TypeVar("Found")


class FabricError(ValueError):
    """Devices that were asked for and cannot be had."""


def init_distributed(devices: int | None = None, nodes: int | None = None, accelerator: str = "auto") -> Any:
    """A `Fabric` whose processes run this program from here on; None for one device, which needs none.

    So many devices in each of so many nodes, or what `fabric run` says. Raises FabricError where Lightning Fabric is
    not installed, or the devices are not there.
    """
    by_command = "LT_CLI_USED" in os.environ  # set by `fabric run`, which refuses any other choice
    if devices is None and nodes is None and not by_command:
        return None
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise FabricError("several devices need Lightning Fabric: pip install 'sepriors[fabric]'") from error
    asked: Any = {"devices": devices or 1, "num_nodes": nodes or 1, "accelerator": accelerator}
    try:
        fabric = Fabric() if by_command else Fabric(**asked)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise FabricError(f"{devices} devices, {nodes} nodes, accelerator {accelerator}: {error}") from error
    if not by_command:
        fabric.launch()
    return fabric


class Fitted(NamedTuple):
    """The averaged model, its validation curve, and the seconds that training took, those before a resume included.

    `diverged` is the step at which the cost was no longer finite, if it was so; the model is then the best one before.
    """

    model: Any
    curve: list[float]
    seconds: float
    diverged: int | None = None


@contextmanager
def _deterministic() -> Iterator[None]:
    """Sums in the same order each time on a GPU too, wherever torch knows how; as a decorator, for a whole call."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@_deterministic()
def fit(
    model: torch.nn.Module,
    draw: Callable[[torch.Generator], torch.Tensor],
    loss: Callable[[torch.nn.Module, torch.Tensor, torch.Generator, float], torch.Tensor],
    *,
    steps: int, learning_rate: float, generator: torch.Generator,
    validate: Callable[[torch.nn.Module], float] | None = None, validations: int = 20,
    clip: float = math.inf, betas: tuple[float, float] = (0.9, 0.999), warm: int = 500,
    rates: Mapping[str, float] | None = None, best_if_diverged: bool = False, fast: bool | None = False,
    checkpoint: str | os.PathLike[str] | None = None, about: str = "", progress: bool = True, fabric: Any = None,
) -> Fitted:  # fmt: skip
    """Minimise loss(model, batch, generator, part done) over `steps` batches of `draw(generator)`.

    Adam's rate rises over `warm` steps and falls by a cosine to its hundredth; `rates` multiplies it for parts of the
    model, by their names. Gradients are clipped to the norm `clip`. `fast` as in `precision.autocast`: None is half
    precision where the hardware has it.
    The average is a plain mean of the first thousand steps, then of about the last thousand. `validate` sees the
    average. With `checkpoint` the state is written there at each validation, and a run that finds one goes on from it,
    to the same weights as if it had never stopped, provided that all that is random comes from the generator. `about`
    names the run, its settings and its seed.

    A cost or a gradient that is not finite raises RuntimeError; with `best_if_diverged` it ends the training instead,
    and the average is taken back to the validation whose value was the highest; else the last average is returned.

    With a `fabric` that was launched, each of its processes calls this alike, on its own device, and gets the same
    weights. The first goes on with `generator`, the others with one that follows from it; after the fit all are where
    the first is. Only the first validates, shows progress and writes. A checkpoint holds for as many processes.

    Raises WeightsError for a checkpoint that is damaged, or of another run.
    """
    first, own = is_rank_zero(fabric), _synchronise(fabric, model, generator)
    device = next(model.parameters()).device
    averaged = copy.deepcopy(model)
    optimiser = torch.optim.Adam(_parameter_groups(model, learning_rate, rates or {}), learning_rate, betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1, (i + 1) / warm) * (0.505 + 0.495 * math.cos(math.pi * i / steps))
    )
    state: dict[str, Any] = {"model": model, "averaged": averaged, "optimiser": optimiser, "schedule": schedule}
    if best_if_diverged:
        state["best"] = copy.deepcopy(model)
    run = f"{steps} steps {about}".strip() + ("" if _single_process(fabric) else f", {fabric.world_size} processes")
    done, curve, seconds = _resume(checkpoint, state, own, run, fabric)
    began, diverged, validated = time.perf_counter() - seconds, None, averaged
    moments = {round(steps * (i + 1) / validations) for i in range(validations)}
    bar = tqdm(range(done + 1, steps + 1), initial=done, total=steps, desc="steps", disable=not (progress and first))
    for step in bar:
        optimiser.zero_grad()
        batch = draw(own).to(device)
        with autocast(next(model.parameters()), fast):
            cost = loss(model, batch, own, step / steps)
        cost.backward()
        cost = _all_reduce(fabric, model, cost)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if not (cost.isfinite() and norm.isfinite()):
            if not best_if_diverged:
                raise RuntimeError(f"step {step}: expected a finite cost and gradient, got {cost:g} and {norm:g}")
            if first:
                tqdm.write(f"step {step}: diverged, cost {cost:g}, gradient {norm:g}; back to the best validation")
            diverged, validated = step, state["best"]
            break
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), max(1e-3, 1 / step))
        if step not in moments:
            continue
        if validate is not None:
            curve.append(_on_rank_zero(fabric, partial(validate, averaged)))
            if best_if_diverged and curve[-1] == max(curve):
                state["best"].load_state_dict(averaged.state_dict())
            bar.set_postfix(valid=f"{curve[-1]:.3f}")
        if checkpoint is not None:
            facts = {"run": run, "step": step, "curve": curve, "seconds": time.perf_counter() - began}
            facts["generator"] = _generator_states(fabric, own)
            _on_rank_zero(fabric, partial(_save, Path(checkpoint), state, facts))
    _share_generator(fabric, generator)
    return Fitted(validated, curve, time.perf_counter() - began, diverged)


def _parameter_groups(model: torch.nn.Module, learning_rate: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parameters, those of the named parts with rates of their own."""
    named = {name: list(model.get_submodule(name).parameters()) for name in rates}
    apart = {p for parameters in named.values() for p in parameters}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p not in apart]}]
    return groups + [{"params": named[name], "lr": learning_rate * factor} for name, factor in rates.items()]


def _save(path: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    content = io.BytesIO()  # written to the disk at once: torch's own errors do not tell that it is full
    torch.save({name: part.state_dict() for name, part in state.items()} | facts, content)
    with atomic_write(path) as file:
        file.write_bytes(content.getbuffer())


def _resume(
    path: str | os.PathLike[str] | None, state: dict[str, Any], own: torch.Generator, run: str, fabric: Any
) -> tuple[int, list[float], float]:
    """(steps done, curve, seconds spent), after what the checkpoint holds has been put back, if there is one."""
    afresh = f"delete {path} to start afresh"
    try:
        found = _on_rank_zero(fabric, partial(_read, path))
        if found is None:
            return 0, [], 0.0
        if found["run"] != run:
            raise WeightsError(f"{path}: expected a run of {run}, got one of {found['run']}; {afresh}")
        for name, part in state.items():
            part.load_state_dict(found[name])
        states = found["generator"]
        own.set_state(states if _single_process(fabric) else states[fabric.global_rank].clone())  # no view
    except WeightsError:
        raise
    except (*DAMAGE, RuntimeError, LookupError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: expected a whole checkpoint of this recipe, got {error}; {afresh}") from error
    return found["step"], found["curve"], found["seconds"]


def _read(path: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    if path is None:
        return None
    remove_partial(path)
    if not Path(path).is_file():
        return None
    with zipfile.ZipFile(path) as file:  # torch does not look at the checksums
        if damaged := file.testzip():
            raise zipfile.BadZipFile(f"another content of {damaged} than was written")
    found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return found


def is_rank_zero(fabric: Any) -> bool:
    """Whether this process is the one that writes: the first of a fabric, or the only one."""
    return fabric is None or bool(fabric.is_global_zero)


def _single_process(fabric: Any) -> bool:
    return fabric is None or fabric.world_size == 1


def _synchronise(fabric: Any, model: torch.nn.Module, generator: torch.Generator) -> torch.Generator:
    """Give all processes the weights of the first; returns the generator of this one."""
    if fabric is None:
        return generator
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    model.load_state_dict(fabric.broadcast(weights))
    model.to(fabric.device)
    if is_rank_zero(fabric):
        return generator
    seeds = torch.randint(2**62, (fabric.world_size,), generator=generator.clone_state())
    return torch.Generator().manual_seed(int(seeds[fabric.global_rank]))


def _all_reduce(fabric: Any, model: torch.nn.Module, cost: torch.Tensor) -> torch.Tensor:
    """The mean cost of the processes; gradients become their mean, too, but what none has a gradient for has none."""
    cost = cost.detach()
    if _single_process(fabric):
        return cost
    # One sum of all, not DDP's: that hooks into a model's `forward`, and losses here call other functions of models
    learned = [p for p in model.parameters() if p.requires_grad]
    counts = torch.tensor([p.grad is not None for p in learned]).to(cost)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    mean = fabric.all_reduce(torch.cat([cost[None], counts, *(g.flatten() for g in gradients)]), reduce_op="mean")
    cost, counts, flat = mean.split([1, len(learned), len(mean) - 1 - len(learned)])
    for p, count, part in zip(learned, counts.tolist(), flat.split([p.numel() for p in learned]), strict=True):
        p.grad = part.view_as(p).to(p) if count else None
    return cost[0]


def _on_rank_zero(fabric: Any, find: Callable[[], Found]) -> Found:
    """What the first process finds, in all of them; if that is an error, it is raised in all, and none waits."""
    if _single_process(fabric):
        return find()
    found: tuple[Any, Exception | None] = None, None
    if fabric.is_global_zero:
        try:
            found = find(), None
        except Exception as error:
            found = None, error
    value, failed = fabric.broadcast(found)
    if failed is not None:
        raise failed
    return value


def _generator_states(fabric: Any, own: torch.Generator) -> torch.Tensor:
    """The generator's state; of several processes, all of theirs (processes, bytes)."""
    state = own.get_state()
    return state if _single_process(fabric) else fabric.all_gather(state).cpu()


def _share_generator(fabric: Any, generator: torch.Generator) -> None:
    """Bring the generator to where that of the first process is, in all: what they draw from now on is one thing."""
    if not _single_process(fabric):
        generator.set_state(fabric.broadcast(generator.get_state()))
