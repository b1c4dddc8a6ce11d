"""What `pip install sepriors` gives: the wheel, the packages that it asks for, theirs, and nothing else.

The environment is a fresh one into which those packages are linked from this project's, one by one, as their metadata
name them. pip, which has no index here, refuses the wheel where one is missing.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from conftest import speechlike
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sepriors.signal import audio

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_paths()["purelib"])

SCRIPT = """
import pkgutil, runpy, shutil, sys
from importlib import import_module
from importlib.util import find_spec

sys.argv = [shutil.which("sepriors"), *"enhance noisy.wav --method spp-wiener -o out".split()]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code

import sepriors, torch
from sepriors.__main__ import main

names = [m.name for m in pkgutil.walk_packages(sepriors.__path__, "sepriors.") if ".lab" not in m.name]
for name in [*names, "sepriors.lab.jobs", "sepriors.lab.peers"]:
    import_module(name)
assert len(names) > 25, names
absent = "pandas scipy sklearn pooch psutil pesq pystoi speechmos librosa onnxruntime requests jupyter_book pytest dask"
assert not [name for name in absent.split() if find_spec(name)]
assert sepriors.__file__.startswith(sys.prefix), sepriors.__file__

s = torch.sin(torch.arange(16000) / 10)
reasons = sepriors.metrics.score(s, s + 0.1 * s.roll(1)).reasons
missing = {"pesq_wb", "pesq_nb", "pesq_raw", "stoi", "estoi", "csig", "cbak", "covl", "dnsmos_sig", "dnsmos_bak"}
assert reasons.keys() == missing | {"dnsmos_ovr"}, reasons
assert all("pip install 'sepriors[metrics]'" in why for why in reasons.values()), reasons
sys.exit(main("enhance noisy.wav --method nmf -o nmf".split()) or main(["bench", "--help"]))
"""


def asked_for(requirements, found=None):
    """The names of the distributions that requirements need, and those that these need."""
    found = set() if found is None else found
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            asked_for(distribution(name).requires or (), found)
    return found


def run(*command, cwd, **variables):
    ours = ("PYTHONPATH", "SEPRIORS_DATA", "SEPRIORS_BUILD", "MPLBACKEND")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def alone(tmp_path):
    """The folder of the programs of an environment that has the wheel without extras."""
    (tmp_path / "source").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    shutil.copytree(ROOT / "sepriors", tmp_path / "source" / "sepriors", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = (*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path)
    made = run(*build, tmp_path / "source", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (wheel,) = tmp_path.glob("*.whl")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in asked_for(project["dependencies"]):
        for top in {Path(file).parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(SITE / top)
    done = run(*pip, "--python", tmp_path / "env", "install", "-q", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(project["dependencies"]) <= 8
    return tmp_path / "env" / "bin"


def test_the_wheel_alone_enhances_a_file(alone, tmp_path):
    audio.write(tmp_path / "noisy.wav", speechlike(1, 8000)[0], 44100)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(alone / "python", "script.py", cwd=tmp_path, PATH=f"{alone}{os.pathsep}{os.environ['PATH']}")
    assert done.stderr.splitlines()[-1] == "sepriors bench needs pandas: pip install 'sepriors[lab]'", done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    for folder in ("out", "nmf"):
        x, rate = audio.read(tmp_path / folder / "noisy.wav")
        assert (x.shape, rate, bool(x.any())) == ((1, 8000), 44100, True)
