"""Shi et al. (2021), Table 1: its flows, and two ways not to climb."""

from collections.abc import Mapping
from typing import Any

import sepriors as sp
from sepriors.lab.studies import OnSet
from sepriors.methods import FlowLangevin, FlowMAP, FlowTweedie

CARDS = ("waveglow", "waveglow-noisy")
SETS = ("white",)


def methods() -> Mapping[str, Any]:
    """The noise's variance estimated or true; a mean in one step, and of draws."""
    flow, noisy = sp.load("waveglow"), sp.load("waveglow-noisy")
    return {
        "Flow (Est)": FlowMAP(flow),
        "Flow (Opt)": FlowMAP.oracle(flow),
        "Tweedie": FlowTweedie(noisy),
        "five draws": FlowLangevin(noisy),
    }


study = OnSet(
    "white",
    methods,
    (-6.0, 0.0, 6.0, 9.0),
    ("pesq_wb", "stoi", "fwsnrseg", "si_sdr"),
    files=8,
)
parts, measure = study.parts, study.measure
