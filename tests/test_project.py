"""The repository as a whole: one address, exact pins, nothing large, nothing with outputs, no side effects."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import process
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import ROOT, gate, repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWNER, NAME = repository().split("/")[-2:]
AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".aiff"}
LIMIT = 8 * 2**20  # bytes
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
ANNOTATED = {"profile": "str", "corpus": "str", "seed": "int", "device": "str"}


def files():
    """The files of the repository: what git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def texts():
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            yield path, content.decode()


def test_every_package_is_installed():
    """Else a clone works, and what pip makes of it does not."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "sepriors").rglob("__init__.py")}
    assert set(listed) == there


def test_every_use_of_the_address_agrees():
    """An address is ours if its owner or its name is: a fork that renames one of them must rename it everywhere."""
    hosts = r"(?:github\.com/|colab\.research\.google\.com/github/)([\w.-]+)/([\w.-]+?)(?:\.git)?(?=[/)\s\"'`>#,@]|$)"
    addresses = [re.compile(hosts), re.compile(r"([\w-]+)\.github\.io/([\w.-]+)")]
    found = [(path.name, *pair) for path, text in texts() for address in addresses for pair in address.findall(text)]
    ours = [(name, *pair) for name, *pair in found if {OWNER, NAME} & set(pair)]
    assert [place for place in ours if place[1:] != (OWNER, NAME)] == []
    assert len(ours) >= 2  # pyproject.toml and _config.yml at the least


def requirements():
    optional = PROJECT["optional-dependencies"].values()
    listed = [Requirement(text) for group in [PROJECT["dependencies"], *optional] for text in group]
    return [requirement for requirement in listed if requirement.name != PROJECT["name"]]


def test_every_dependency_is_pinned_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} has no line in constraints.txt"
        assert pins[name] in requirement.specifier, f"{name}=={pins[name]} is not {requirement.specifier}"


def test_a_readers_dependencies_have_lower_bounds_only():
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert [s.operator for s in requirement.specifier] == [">="], f"{requirement}: Colab brings its own versions"


def test_no_audio_but_two_clips_and_nothing_large():
    clips = {ROOT / "sepriors" / "lab" / "clips" / f"{name}.flac" for name in ("speech", "noise")}
    assert {path for path in files() if path.suffix.lower() in AUDIO} == clips
    for path in files():
        assert path.stat().st_size <= LIMIT, f"{path} has {path.stat().st_size} bytes"


def test_configuration_has_no_dead_line():
    names = ["_config.yml", "_toc.yml", ".yamllint", ".pre-commit-config.yaml", ".github"]
    found = process("-m", "yamllint", "--strict", *names)
    assert found.returncode == 0, found.stdout


PROBE = """
import os, random, warnings
import numpy, torch
before = (torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate(), dict(os.environ),
          torch.get_num_threads(), torch.get_default_dtype(), list(warnings.filters))
import sepriors
after = (torch.get_rng_state(), numpy.random.get_state()[1], random.getstate(), dict(os.environ),
         torch.get_num_threads(), torch.get_default_dtype(), list(warnings.filters))
assert torch.equal(before[0], after[0]) and (before[1] == after[1]).all(), "the state of a generator changed"
assert before[2:] == after[2:], "random, the environment, threads, the default dtype or warnings"
"""


def test_the_import_has_no_side_effect(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-c", PROBE]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment | {"MPLCONFIGDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert not found.stderr
    # Matplotlib keeps its list of fonts there on the first import, whoever imports it.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("fontlist")] == []


def test_the_citation_is_that_of_this_version():
    """The keys that the Citation File Format 1.2.0 requires, and the facts that stand elsewhere, too."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"]
    assert all({"name"} <= author.keys() or {"family-names"} <= author.keys() for author in cited["authors"])
    expected = {"version": PROJECT["version"], "license": PROJECT["license"], "repository-code": repository()}
    assert expected.items() <= cited.items()
    headings = re.findall(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


@pytest.mark.parametrize("name", ["bug", "result"])
def test_the_facts_that_an_issue_asks_for_can_be_had(name, capsys):
    (command,) = re.findall(r'`python -c "([^`]+)"`', (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    exec(command, {})
    assert {"commit", "hardware", "versions"} <= json.loads(capsys.readouterr().out).keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_keeps_to_its_form(path):
    """Code of 88 columns at most, four annotated parameters, a title with a place for the badges."""
    cells = [(cell, "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
    code = [line for cell, source in cells if cell["cell_type"] == "code" for line in source.splitlines()]
    assert max(map(len, code)) <= 88
    (parameters,) = [source for cell, source in cells if "parameters" in cell["metadata"].get("tags", [])]
    annotated = {node.target.id: ast.unparse(node.annotation) for node in ast.parse(parameters).body}
    assert annotated == ANNOTATED
    title, text = cells[0]
    assert title["cell_type"] == "markdown"
    assert text.startswith("# ")
    assert text.count("<!-- badges -->") == 1


def test_chapters_are_listed_and_committed_without_outputs():
    assert NOTEBOOKS
    assert list(gate.check_source(ROOT)) == []
