"""Training: each function returns what a card of `cards.toml` describes; `sepriors train NAME` writes both again."""

from __future__ import annotations

import difflib
import json
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import nmf, weights
from .audio import whole
from .corpora import Corpora, CorpusError
from .rng import generators
from .stft import STFT


@dataclass(frozen=True)
class NMFRecipe:
    """Bases of the power spectra of a corpus, by IS-NMF (Févotte, Bertin & Durrieu, 2009).

    Speech keeps only frames within `range_db` of the loudest of its file: the divergence is blind to level, so pauses
    would count as much as vowels, and bases that learn a corpus's room noise take noise for speech later.
    """

    rank: int
    stft: STFT
    kind: str = "speech"  # or 'noise', or 'white': drawn, not recorded
    select: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = 30.0
    range_db: float = 20.0
    iterations: int = 100


LIBRISPEECH = {"corpus": "mini-librispeech"}
RECIPES: dict[str, NMFRecipe] = {
    "nmf-speech": NMFRecipe(64, STFT(1024, 256), select=LIBRISPEECH),
    "nmf-speech-257": NMFRecipe(40, STFT(512, 128), select=LIBRISPEECH),
    "nmf-noise-257": NMFRecipe(40, STFT(512, 128), kind="noise", minutes=12.0),
    "nmf-white-257": NMFRecipe(40, STFT(512, 128), kind="white", minutes=12.0),
}


def recipe(name: str) -> NMFRecipe:
    """The recipe of a card; raises ValueError for an unknown one, with the nearest."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"no recipe for weights {name!r}; did you mean {' or '.join(near)}?")
    return RECIPES[name]


def train(
    name: str, corpora: Corpora, *, seed: int = 0, progress: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train the bases of a card on the training split; returns the tensors and the facts for its card."""
    made = recipe(name)
    P, facts = _white(made, seed) if made.kind == "white" else spectra(made, corpora, seed, progress)
    start = time.perf_counter()
    model = nmf.init(P, made.rank, generators(seed, 1))
    for _ in tqdm(range(made.iterations), desc=name, disable=not progress):
        model = nmf.update(model, P[None])
    return {"W": model.W[0]}, {**facts, "train_seconds": round(time.perf_counter() - start, 1), "seed": seed}


def spectra(made: NMFRecipe, corpora: Corpora, seed: int, progress: bool) -> tuple[torch.Tensor, dict[str, Any]]:
    """Power spectra (1, F, T) of training files in random order, until there are enough minutes, and what they were."""
    rows = corpora.select(kind=made.kind, split="train", **made.select).sample(frac=1, random_state=seed)
    if rows.empty:
        raise CorpusError(f"expected training files of {dict(made.select) or made.kind}, got none; {corpora}")
    enough = max(1, int((rows["seconds"].cumsum() <= 60 * made.minutes).sum()))
    rows = rows[:enough]
    spectra = []
    for path in tqdm(rows["path"], desc="spectra", disable=not progress):
        P = made.stft(corpora.read(path)).abs().square()
        level = 10 * P.sum(0).clamp_min(1e-12).log10()
        spectra.append(P[:, level > level.max() - made.range_db] if made.kind == "speech" else P[:, level > -80])
    facts = {
        "corpus": ", ".join(sorted(rows["corpus"].unique())),
        "files": len(rows),
        "minutes": round(rows["seconds"].sum() / 60, 1),
    }
    return torch.cat(spectra, -1)[None], facts


def _white(made: NMFRecipe, seed: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """White noise in ten-second pieces at levels from -40 to 0 dB: 'several powers' (Shi et al., 2021, § 5.2)."""
    (g,) = generators(seed, 1)
    length, pieces = 10 * made.stft.sample_rate, round(6 * made.minutes)
    levels = 10 ** (torch.linspace(-40, 0, pieces) / 20)
    P = made.stft(torch.randn(pieces, length, generator=g) * levels[:, None]).abs().square()
    return P.movedim(0, 1).flatten(1)[None], {
        "corpus": "drawn white noise",
        "files": pieces,
        "minutes": round(made.minutes, 1),
    }


def write_card(
    name: str, corpora: Corpora, *, seed: int = 0, folder: Path | None = None, progress: bool = True
) -> Path:
    """Train, save the weights and enter the card in `cards.toml`; returns the file of the weights."""
    folder = folder or weights.folder()
    made = recipe(name)
    tensors, facts = train(name, corpora, seed=seed, progress=progress)
    path = folder / f"{name}.safetensors"
    config = {"n_fft": made.stft.n_fft, "hop": made.stft.hop, "sample_rate": made.stft.sample_rate, "rank": made.rank}
    weights.save(path, tensors, {k: str(v) for k, v in config.items()})
    licence = (
        "MIT"
        if made.kind == "white"
        else ", ".join(sorted(corpora.select(kind=made.kind, split="train", **made.select)["licence"].unique()))
    )
    card = {
        "about": f"IS-NMF bases of {made.kind}, {made.rank} of {made.stft.bins} bins",
        "file": path.name,
        "sha256": weights.sha256(path),
        "bytes": path.stat().st_size,
        "licence": f"weights MIT; trained on {licence}" if made.kind != "white" else "MIT",
        **facts,
        "hardware": f"CPU, {torch.get_num_threads()} threads",
        "command": f"sepriors train {name} --force" + (f" --seed {seed}" if seed else ""),
    }
    _enter(folder / "cards.toml", name, card)
    return path


def _enter(path: Path, name: str, card: Mapping[str, Any]) -> None:
    """Put one card into the file, in the order of names."""
    known = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    known[name] = dict(card)
    # texts, numbers and truth values are written alike in JSON and in TOML
    blocks = []
    for key in sorted(known):
        lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in known[key].items()]
        blocks.append("\n".join([f"[{key}]", *lines]) + "\n")
    with whole(path) as part:
        part.write_text("\n".join(blocks), "utf-8")


def quick(made: NMFRecipe) -> NMFRecipe:
    """The same recipe, cut to seconds: for tests and smoke runs."""
    return replace(made, minutes=min(made.minutes, 0.5), iterations=3)
