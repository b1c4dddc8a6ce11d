"""Training: `sepriors train NAME` follows the recipe of a card, and writes its weights and the card itself."""

import json
import shutil
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import SoftFileLock

from sepriors import weights
from sepriors.files import atomic_write, remove_partial
from sepriors.lab.corpora import Corpora
from sepriors.lab.recipes import Learned, LongRecipe, Recipe, recipe
from sepriors.lab.training.fitting import is_rank_zero


def train(
    name: str, corpora: Corpora, *, seed: int = 0, progress: bool = True, checkpoint: Path | None = None,
    fabric: Any = None,
) -> Learned:  # fmt: skip
    """Learn the weights of a card from the training split; the longer recipes keep a checkpoint, and go on from it.

    With a `fabric`, see `fitting.init_distributed`, these divide their batches between its processes.
    """
    start = time.perf_counter()
    made = recipe(name) if fabric is None else recipe(name).per_process(fabric.world_size)
    long = {"checkpoint": checkpoint, "fabric": fabric} if isinstance(made, LongRecipe) else {}
    learned = made.learn(corpora, seed, progress, **long)
    facts = {"train_seconds": round(time.perf_counter() - start, 1), **learned.facts, "seed": seed}
    return learned._replace(facts=facts)


def write_card(
    name: str, corpora: Corpora, *, seed: int = 0, folder: Path | None = None, progress: bool = True, fabric: Any = None
) -> Path:
    """Train, save the weights and enter the card in `cards.toml`; returns the file of the weights.

    Of the processes of a `fabric` only the first writes.
    """
    folder = folder or weights.folder()
    made = recipe(name)
    checkpoint = folder / f"{name}.checkpoint"
    path = folder / f"{name}.safetensors"
    progress = progress and is_rank_zero(fabric)
    learned = train(name, corpora, seed=seed, progress=progress, checkpoint=checkpoint, fabric=fabric)
    if not is_rank_zero(fabric):
        return path
    for file in (path, folder / "cards.toml"):  # of an earlier run that was killed in the middle of either
        remove_partial(file)
    weights.save(path, learned.tensors, learned.config)
    card = {
        "about": made.about,
        "file": path.name,
        "sha256": weights.sha256(path),
        "bytes": path.stat().st_size,
        "licence": _licence(made, corpora),
        **learned.facts,
        "hardware": _hardware(made, 1 if fabric is None else fabric.world_size),
        "command": f"sepriors train {name} --force" + (f" --seed {seed}" if seed else ""),
        **({} if made.shipped else {"shipped": False}),
    }
    _enter(folder / "cards.toml", name, card)  # before the checkpoint goes: killed in between, the next run ends it
    for old in folder.glob(f"{name}.checkpoint*"):
        if old.is_file():
            old.unlink()
    shutil.rmtree(checkpoint.with_suffix(".samples"), ignore_errors=True)  # they were for the time of the training
    return path


def _hardware(made: Recipe, processes: int) -> str:
    times = f"{processes} × " if processes > 1 else ""
    if isinstance(made, LongRecipe) and torch.cuda.is_available():
        return times + torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{times}CPU, {threads} thread{'s' if threads > 1 else ''}"


def _licence(made: Recipe, corpora: Corpora) -> str:
    licences = sorted(set(made.training_files(corpora)["licence"]))
    return f"weights MIT; trained on {', '.join(licences)}" if licences else "MIT"


def _enter(path: Path, name: str, card: Mapping[str, Any]) -> None:
    """Put one card into the file, in the order of names."""
    # trainings side by side enter their cards one by one
    with SoftFileLock(path.with_name(f".{path.name}.lock"), timeout=60):
        known = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
        known[name] = dict(card)
        # texts, numbers and truth values are written alike in JSON and in TOML
        blocks = []
        for key in sorted(known):
            lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in known[key].items()]
            blocks.append("\n".join([f"[{key}]", *lines]) + "\n")
        with atomic_write(path) as part:
            part.write_text("\n".join(blocks), "utf-8")
