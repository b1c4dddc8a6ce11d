"""The examples in the docstrings run and are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import sepriors

MODULES = ["sepriors", *(m.name for m in pkgutil.walk_packages(sepriors.__path__, "sepriors."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {name: sum(bool(t.examples) for t in finder.find(importlib.import_module(name))) for name in MODULES}
    for name in ("rng", "stft", "audio", "gaussian", "nmf", "spp", "mixing", "metrics", "weights", "methods", "claims"):
        assert found[f"sepriors.{name}"] >= 1, name
