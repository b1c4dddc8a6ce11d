"""What builds and checks the book: execute, postprocess, gate, pages, build; what packs and serves it; layers.

Facts that several of them need stand here: where the repository is, what the table of contents lists, and the
environment that every timed process runs in.
"""

import os
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]

# Measured on two cores, and part of every timing in the book: OpenBLAS threads that wait for torch's make a switch
# between a NumPy and a torch product 40 times slower; fresh pages for every large tensor, a 48-MB product 3 times;
# OpenMP's threads, which spin while they wait, are 15 times slower beside other work unless they spin briefly.
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


def timed(variables: Mapping[str, str]) -> dict[str, str]:
    """These variables with those of ENVIRONMENT; what the user has set stays.

    >>> timed({"GOMP_SPINCOUNT": "0"})["GOMP_SPINCOUNT"], "GOMP_SPINCOUNT" in timed({"OMP_WAIT_POLICY": "ACTIVE"})
    ('0', False)
    """
    decided = {"GOMP_SPINCOUNT"} if "OMP_WAIT_POLICY" in variables else set()
    return {name: value for name, value in ENVIRONMENT.items() if name not in decided} | dict(variables)


def repository(source: Path = ROOT) -> str:
    """The address of the repository, from pyproject.toml, the one place where it stands."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"].rstrip("/")


def contents(source: Path = ROOT) -> list[str]:
    """The files of the table of contents without their suffixes, in its order.

    >>> contents()[:2]
    ['book/intro', 'book/01-wiener-nmf']
    """
    toc = yaml.safe_load((source / "_toc.yml").read_text())
    entries = [entry for part in toc.get("parts", [toc]) for entry in part["chapters"]]
    return [toc["root"], *(page["file"] for entry in entries for page in (entry, *entry.get("sections", ())))]


def chapters(source: Path = ROOT) -> list[Path]:
    """The notebooks of the table of contents, in its order.

    >>> [path.name for path in chapters()][0]
    '01-wiener-nmf.ipynb'
    """
    return [path for name in contents(source) if (path := source / f"{name}.ipynb").exists()]


def commit(source: Path = ROOT) -> str:
    """The short hash of the commit, with '-dirty' if files differ from it; 'none' outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "none"


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
