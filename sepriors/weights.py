"""Trained weights: safetensors with a card each, checked by sha256 before they are used."""

import difflib
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from sepriors.files import atomic_write

NEEDED = ("file", "sha256", "command")  # on the card of any weights


class WeightsError(ValueError):
    """Weights that are unknown, incomplete or not the ones their card describes."""


class Weights(NamedTuple):
    """Tensors by name, and the configuration that stands in the file's metadata, as JSON has it."""

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]


def folder() -> Path:
    """Where the cards and the shipped weights lie: `sepriors/cards` in the installed package."""
    return Path(str(resources.files("sepriors.cards")))


def cards() -> dict[str, dict[str, Any]]:
    """All cards of `cards.toml` by name: file, sha256, bytes, licence, corpus, minutes, cost of training, command.

    Raises WeightsError where the file is damaged.
    """
    where = folder() / "cards.toml"
    try:
        return tomllib.loads(where.read_text("utf-8"))
    except ValueError as error:
        raise WeightsError(f"{where}: expected cards in TOML and UTF-8, got {error}") from error


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write tensors with their configuration, whole or not at all; the same content gives the same bytes.

    The configuration is one JSON text in the metadata: safetensors writes several entries in random order, which would
    change the sha256 from one training to the next.
    """
    with atomic_write(path) as part:
        metadata = {"config": json.dumps(dict(config), sort_keys=True)}
        # not save_file, whose errors do not tell a full disk from wrong tensors
        part.write_bytes(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata))


def load(name: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Weights:
    """The weights of a card, by its name, or of a safetensors file, by its path.

    Raises WeightsError for an unknown name (with the nearest ones), a missing or half-written file, or a sha256 that is
    not the card's.

    >>> load("nmf-speech").tensors["W"].shape
    torch.Size([513, 64])
    """
    known = cards()
    if str(name) in known:
        card, where = known[str(name)], folder()
        if not (isinstance(card, dict) and all(isinstance(card.get(field), str) for field in NEEDED)):
            expected = f"expected {', '.join(NEEDED)} on the card {str(name)!r}"
            raise WeightsError(f"{where / 'cards.toml'}: {expected}, got {card}")
        path = where / card["file"]
        if path.is_file() and (got := sha256(path)) != card["sha256"]:
            expected = f"expected sha256 {card['sha256']}"
            raise WeightsError(f"{path}: {expected}, got {got}; train it again: {card['command']}")
    else:
        path = Path(name)
        if path.suffix != ".safetensors":
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3)
            raise WeightsError(f"unknown weights {str(name)!r}; did you mean {' or '.join(near or known)}?")
    if not path.is_file():
        card = known.get(str(name), {})
        how = f"; its card does not come with them, train them: {card['command']}" if card else ""
        raise WeightsError(f"{path}: no such weights{how}")
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            config = dict(json.loads((file.metadata() or {}).get("config", "{}")))
            return Weights({key: file.get_tensor(key) for key in file.keys()}, config)  # noqa: SIM118
    # the last three: the configuration is no JSON, of no names, or of brackets in brackets
    except (safetensors.SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: expected a whole safetensors file, got {error}") from error
