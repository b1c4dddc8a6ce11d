"""The walk-through of CONTRIBUTING.md, followed step by step in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import speechlike

from sepriors import weights
from sepriors.signal import audio
from tools import ROOT

STEP = re.compile(r"^`([\w./]+)`, (a new file|above `([^`]+)`|below `([^`]+)`):\n\n```python\n(.*?)^```$", re.M | re.S)
FOLLOW = """
import sys
import pytest
from sepriors.__main__ import main
train, enhance = sys.argv[1].split(), sys.argv[2].split()
chosen = ["tests/test_pca.py", "tests/test_train.py", "-k", "test_pca or test_a_recipe and pca"]
sys.exit(main(train) or main(enhance) or pytest.main(["-q", "-p", "no:cacheprovider", *chosen]))
"""


class Step(NamedTuple):
    """A block of code, the file it goes to, and the line above or below which it goes; neither for a new file."""

    path: str
    above: str
    below: str
    code: str


def steps():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return [Step(path, above, below, code) for path, _, above, below, code in STEP.findall(text)]


def follow(step: Step, root: Path) -> None:
    """Do what a step says; its anchor must be the beginning of exactly one line."""
    path = root / step.path
    if not (step.above or step.below):
        assert not path.exists(), f"{step.path} is there already"
        path.write_text(step.code)
        return
    lines = path.read_text().splitlines(keepends=True)
    anchor = step.above or step.below
    (place,) = [i for i, line in enumerate(lines) if line.startswith(anchor)]
    lines.insert(place + bool(step.below), step.code)
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The package without its weights and what the tests of one module need, with the walk-through applied."""
    root = tmp_path_factory.mktemp("project")
    skip = shutil.ignore_patterns("*.safetensors", "__pycache__")
    shutil.copytree(ROOT / "sepriors", root / "sepriors", ignore=skip)
    (root / "tests").mkdir()
    for name in ("conftest.py", "browser.py", "serving.py", "test_train.py", "test_codec.py", "test_fitting.py"):
        shutil.copy(ROOT / "tests" / name, root / "tests")
    shutil.copy(ROOT / "pyproject.toml", root)
    for step in steps():
        follow(step, root)
    return root


def test_it_takes_sixty_lines_without_tests_and_blanks():
    code = [line for step in steps() if not step.path.startswith("tests/") for line in step.code.splitlines()]
    assert 40 < sum(bool(line.strip()) for line in code) <= 60


def test_every_block_of_code_is_a_step():
    assert len(steps()) == (ROOT / "CONTRIBUTING.md").read_text().count("```python\n") == 8


def test_the_prior_is_trained_tested_and_enhances_a_file(project, corpus_folder, tmp_path):
    audio.write(tmp_path / "noisy.wav", speechlike(1, 16000)[0], 16000)
    train = f"train pca --corpus {corpus_folder}"
    enhance = f"enhance {tmp_path / 'noisy.wav'} -o {tmp_path / 'enhanced'} --method pca-peem"
    found = subprocess.run(
        [sys.executable, "-c", FOLLOW, train, enhance],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    card = tomllib.loads((project / "sepriors" / "cards" / "cards.toml").read_text())["pca"]
    made = weights.load(project / "sepriors" / "cards" / "pca.safetensors")
    assert card["sha256"] == weights.sha256(project / "sepriors" / "cards" / card["file"])
    assert card["about"] == "principal components of log spectra of speech, 16 of 513 bins"
    assert (made.config["family"], made.tensors["W"].shape) == ("pca", (513, 16))
    x, rate = audio.read(tmp_path / "enhanced" / "noisy.wav")
    assert (x.shape, rate) == ((1, 16000), 16000)
    assert float(x.square().mean()) > 0


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=str)
def test_what_it_adds_is_well_written(project, command):
    command = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "sepriors", "tests"]
    found = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
