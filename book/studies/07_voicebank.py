"""The three priors of chapter 7 on pairs that others use: VoiceBank-DEMAND."""

from collections.abc import Mapping
from typing import Any

import sepriors as sp
from sepriors.lab.studies import OnSet

CARDS = ("codec", "use-ddp", "use-ddp-out-of-domain", "use-ddp-close-talk")
SETS = ("voicebank",)
NAMES = ("no prior", "in-domain", "out-of-domain", "close-talk")
METRICS = ("si_sdr", "pesq_wb", "csig", "cbak", "covl", "estoi", "dnsmos_ovr")


def networks() -> Mapping[str, Any]:
    """The codec that all begin as, and what became of it."""
    return {
        name: sp.methods.Separator(sp.load(card))
        for name, card in zip(NAMES, CARDS, strict=True)
    }


study = OnSet("voicebank", networks, (0.0,), METRICS)
parts, measure = study.parts, study.measure
