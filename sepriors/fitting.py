"""The one training loop: Adam, a falling learning rate, averaged weights, a validation curve, and resume."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from .audio import clear_parts, whole
from .weights import WeightsError

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, pickle.UnpicklingError)  # what reading a damaged file may raise


class Fitted(NamedTuple):
    """The averaged model, its validation curve, and the seconds that training took, those before a resume included.

    `diverged` is the step at which the cost was no longer finite, if it was so; the model is then the best one before.
    """

    model: Any
    curve: list[float]
    seconds: float
    diverged: int | None = None


def fit(
    model: torch.nn.Module,
    draw: Callable[[torch.Generator], torch.Tensor],
    loss: Callable[[torch.nn.Module, torch.Tensor, torch.Generator, float], torch.Tensor],
    *,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    validate: Callable[[torch.nn.Module], float] | None = None,
    validations: int = 20,
    clip: float = math.inf,
    betas: tuple[float, float] = (0.9, 0.999),
    warm: int = 500,
    rates: Mapping[str, float] | None = None,
    keep_best: bool = False,
    bf16: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    about: str = "",
    progress: bool = True,
) -> Fitted:
    """Minimise loss(model, batch, generator, share done) over `steps` batches of `draw(generator)`.

    Adam's rate rises over `warm` steps and falls by a cosine to its hundredth; `rates` multiplies it for parts of the
    model, by their names. Gradients are clipped to the norm `clip`.
    The average is a plain mean of the first thousand steps, then of about the last thousand. `validate` sees the
    average. With `checkpoint` the state is written there at each validation, and a run that finds one goes on from it,
    to the same weights as if it had never stopped, provided that all that is random comes from the generator. `about`
    names the run, its settings and its seed.

    A cost or a gradient that is not finite raises RuntimeError; with `keep_best` it ends the training instead, and the
    average is taken back to the validation whose value was the highest.

    Raises WeightsError for a checkpoint that is damaged, or of another run.
    """
    device = next(model.parameters()).device
    averaged = copy.deepcopy(model)
    optimiser = torch.optim.Adam(_groups(model, learning_rate, rates or {}), learning_rate, betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1, (i + 1) / warm) * (0.505 + 0.495 * math.cos(math.pi * i / steps))
    )
    parts: dict[str, Any] = {"model": model, "averaged": averaged, "optimiser": optimiser, "schedule": schedule}
    if keep_best:
        parts["best"] = copy.deepcopy(model)
    run = f"{steps} steps {about}".strip()
    done, curve, before = _resume(checkpoint, parts, generator, run)
    begun = time.perf_counter()
    moments = {round(steps * (i + 1) / validations) for i in range(validations)}
    bar = tqdm(range(done + 1, steps + 1), initial=done, total=steps, desc="steps", disable=not progress)
    for step in bar:
        optimiser.zero_grad()
        batch = draw(generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            cost = loss(model, batch, generator, step / steps)
        cost.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        if not (cost.isfinite() and norm.isfinite()):
            if not keep_best:
                raise RuntimeError(f"step {step}: expected a finite cost and gradient, got {cost:g} and {norm:g}")
            tqdm.write(f"step {step}: diverged, cost {cost:g}, gradient {norm:g}; back to the best validation")
            return Fitted(parts["best"], curve, before + time.perf_counter() - begun, step)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), max(1e-3, 1 / step))
        if step in moments:
            if validate is not None:
                curve.append(validate(averaged))
                if keep_best and curve[-1] == max(curve):
                    parts["best"].load_state_dict(averaged.state_dict())
                bar.set_postfix(valid=f"{curve[-1]:.3f}")
            if checkpoint is not None:
                seconds = before + time.perf_counter() - begun
                _save(
                    Path(checkpoint),
                    parts,
                    generator,
                    {"step": step, "run": run, "curve": curve, "seconds": seconds},
                )
    return Fitted(averaged, curve, before + time.perf_counter() - begun)


def _groups(model: torch.nn.Module, learning_rate: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parameters, those of the named parts with rates of their own."""
    apart = {name: list(model.get_submodule(name).parameters()) for name in rates}
    moved = {id(p) for parameters in apart.values() for p in parameters}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in moved]}]
    return groups + [{"params": apart[name], "lr": learning_rate * factor} for name, factor in rates.items()]


def _save(path: Path, parts: dict[str, Any], generator: torch.Generator, facts: dict[str, Any]) -> None:
    states = {name: made.state_dict() for name, made in parts.items()}
    content = io.BytesIO()  # written to the disk at once: torch's own errors do not tell that it is full
    torch.save({**states, "generator": generator.get_state(), **facts}, content)
    with whole(path) as part:
        part.write_bytes(content.getbuffer())


def _resume(
    path: str | os.PathLike[str] | None, parts: dict[str, Any], generator: torch.Generator, run: str
) -> tuple[int, list[float], float]:
    """(steps done, curve, seconds spent), after what the checkpoint holds has been put back, if there is one."""
    if path is None:
        return 0, [], 0.0
    clear_parts(path)
    if not Path(path).is_file():
        return 0, [], 0.0
    again = f"delete {path} to start afresh"
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the checksums
            if damaged := file.testzip():
                raise zipfile.BadZipFile(f"another content of {damaged} than was written")
        state = torch.load(path, weights_only=True)
        if state["run"] != run:
            raise WeightsError(f"{path}: expected a run of {run}, got one of {state['run']}; {again}")
        for name, made in parts.items():
            made.load_state_dict(state[name])
        generator.set_state(state["generator"])
    except (*DAMAGE, RuntimeError, LookupError, TypeError, ValueError, OSError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: expected a whole checkpoint of this recipe, got {error}; {again}") from error
    return state["step"], state["curve"], state["seconds"]
