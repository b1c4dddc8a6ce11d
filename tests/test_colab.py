"""A notebook alone on a strange machine: an empty folder, a fresh environment, its own bootstrap cell.

The environment stands in for Colab: it sees torch, numpy and what else this project's environment holds, but neither
the package nor the book's tools, and it has no index to download from. The bootstrap cell is run as it is; git is told
that the repository's address is a repository made here, of the files as they are now, so pip builds its wheel from it.

Left out: the newest torch that the lower bounds admit, since a second torch is a download of 200 MB to 3 GB (`make env
SETUP=--no-constraints` tries the newest versions); and that pip fetches what Colab lacks (PESQ, STOI and so on), since
that needs an index.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from tools import ROOT, repository

CHAPTER = "04-maf-2d"  # the one that needs least
SITE = Path(sysconfig.get_paths()["purelib"])
WITHOUT = 'import sys; sys.modules["myst_nb"] = None\n'  # the book's tools: their import fails, as on Colab
ABSENT = "import importlib.util; print(importlib.util.find_spec('sepriors') is None)"
PROBE = "import json, numpy, sepriors, torch; print(json.dumps([m.__file__ for m in (numpy, torch, sepriors)]))"

pytestmark = pytest.mark.notebook


def run(*command, cwd, env=None):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository of the project's files as they are now, in the working tree."""
    folder = tmp_path_factory.mktemp("origin")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    run("git", *who, "commit", "-q", "-m", "as it is", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The Python of a fresh environment that sees what is installed here, but not the package."""
    folder = tmp_path_factory.mktemp("colab") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(f"{SITE}\n")  # a path, so that an editable install in it stays unseen
    (site / "without.pth").write_text(WITHOUT)  # not sitecustomize.py: a system may have one that comes first
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def surroundings(origin, tmp_path_factory):
    """The variables of the strange machine."""
    ours = ("PYTHONPATH", "SEPRIORS_DATA", "SEPRIORS_BUILD", "JUPYTER_PATH", "MPLBACKEND")
    home = tmp_path_factory.mktemp("home")
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "HOME": str(home),
        "SEPRIORS_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository(),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's own way of saying that setuptools is there already
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def times():
    """When the files of torch and numpy that pip would replace were written."""
    files = [Path(module.__file__) for module in (torch, np)]
    files += [*SITE.glob("torch-*.dist-info/*"), *SITE.glob("numpy-*.dist-info/*")]
    assert len(files) > 4
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_notebook_alone_installs_the_package_and_nothing_else_and_runs(colab, surroundings, tmp_path):
    assert run(colab, "-c", ABSENT, cwd=tmp_path, env=surroundings) == "True\n"
    shutil.copy(ROOT / "book" / f"{CHAPTER}.ipynb", tmp_path / "alone.ipynb")
    before = times()
    parameters = ("-r", "profile", "smoke", "-r", "corpus", "synthetic")
    papermill = ("-m", "papermill", "alone.ipynb", "done.ipynb", "-k", "python3", "--no-progress-bar")
    run(colab, *papermill, *parameters, cwd=tmp_path, env=surroundings)

    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code" and cell.source.strip())
    (site,) = colab.parents[1].glob("lib/python*/site-packages")
    added = {path.name for path in site.iterdir()} - {"beside.pth", "without.pth", "__pycache__"}
    assert {name.split("-")[0] for name in added} == {"sepriors"}, "pip has installed more than the package"
    assert times() == before
    places = json.loads(run(colab, "-c", PROBE, cwd=tmp_path, env=surroundings))
    assert places[:2] == [np.__file__, torch.__file__]
    assert Path(places[2]).is_relative_to(site)
    shown = [output.text for cell in done.cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    assert any("kl_plain = " in text for text in shown), "without myst_nb, values are printed where they are made"


def test_every_chapter_has_the_same_bootstrap_cell():
    """So what holds of one holds of all."""
    cells = {
        "".join(json.loads(path.read_text())["cells"][2]["source"]) for path in sorted((ROOT / "book").glob("*.ipynb"))
    }
    (cell,) = cells
    assert f'"sepriors[lab] @ git+{repository()}"' in cell
