"""The examples in the docstrings run and are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import sepriors
import tools

PACKAGES = (sepriors, tools)
MODULES = [p.__name__ for p in PACKAGES]
MODULES += [m.name for p in PACKAGES for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {name for name in MODULES if any(t.examples for t in finder.find(importlib.import_module(name)))}
    signal = {f"sepriors.signal.{name}" for name in ("rng", "stft", "audio", "gaussian", "spp", "mixing")}
    others = {f"sepriors.{name}" for name in ("inference.nmf", "metrics", "weights", "methods", "lab.claims")}
    assert signal | others <= found
