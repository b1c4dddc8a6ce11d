"""One network, one set, three corpora of clean speech: what changes with the prior."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sepriors as sp
import torch
from sepriors.lab.corpora import Corpora
from sepriors.lab.studies import OnSet
from sepriors.metrics import si_sdr

CARDS = ("codec", "use-ddp", "use-ddp-out-of-domain", "use-ddp-close-talk")
SETS = ("matched",)
NAMES = ("no prior", "in-domain", "out-of-domain", "close-talk")
METRICS = ("si_sdr", "pesq_wb", "csig", "cbak", "covl", "estoi", "dnsmos_ovr")


@lru_cache
def networks() -> Mapping[str, Any]:
    """The codec that all begin as, and what became of it."""
    return {
        name: sp.methods.Separator(sp.load(card))
        for name, card in zip(NAMES, CARDS, strict=True)
    }


study = OnSet("matched", networks, (-5.0, 0.0, 5.0), METRICS)
parts = study.parts


def measure(part: str, corpora: Corpora) -> list[dict[str, Any]]:
    """The measures of the speech; of both branches what they rebuild and what leaks."""
    rows, name = study.measure(part, corpora), part.split(" | ")[0]
    if name == "noisy":
        return rows
    _, (_, _, noisy, clean) = study.excerpt(part, corpora)
    assert clean is not None
    with torch.inference_mode():
        s, n = networks()[name].prior.separate(noisy)
    clean = clean.expand_as(noisy)
    both = {
        "rebuilt": si_sdr(noisy, s + n),
        "speech in the noise": leakage(n, clean, noisy - clean),
        "noise in the speech": leakage(s, noisy - clean, clean),
    }
    return [
        row | {k: float(x[i]) for k, x in both.items()} for i, row in enumerate(rows)
    ]


def leakage(part: torch.Tensor, other: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How much louder one source is let through than the one that belongs there, dB."""
    gain = [
        (part * source).sum(-1).abs() / source.square().sum(-1)
        for source in (other, own)
    ]
    return 20 * (gain[0].clamp_min(1e-3) / gain[1].clamp_min(1e-3)).log10()
