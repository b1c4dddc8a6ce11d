"""What the tests share: float64 by default, one torch thread, a small corpus, and a browser."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver, get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from browser import browser, open_page  # noqa: F401
from serving import archive, server  # noqa: F401

from sepriors import STFT, metrics, weights
from sepriors.lab.corpora import FIELDS, Corpora, open_corpora, write_manifest
from sepriors.priors import RVAE, VAE, Denoiser, Descript, WaveGlow
from sepriors.signal import audio

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _fork_server():
    """A process has one; started here, it has all that the victims of a fault need, and each of them costs 20 ms."""
    if "forkserver" in get_all_start_methods():
        get_context("forkserver").set_forkserver_preload(["torch._dynamo", "sepriors.__main__", "pytest"])
        forkserver.ensure_running()


def pytest_xdist_auto_num_workers() -> int:
    """A worker for each core that this process may use, not for each of the machine; eight at most, for memory."""
    return min(metrics.workers(), 8)


def alike(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-4) -> bool:
    """Whether two results are one but for rounding: within a share of the peak, what batch mates may matter at most.

    Products and recurrent networks round by the size of the batch on some processors; nothing else may differ.
    """
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a - b).abs() <= bound * b.abs().max()).all())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without CUDA there is nothing that a `gpu` test could ask; they are deselected, and counted so."""
    if not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def double():
    """Identities are checked in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped cards and weights in a folder that a test may spoil."""
    shutil.copytree(weights.folder(), tmp_path / "cards")
    monkeypatch.setattr(weights, "folder", lambda: tmp_path / "cards")
    return tmp_path / "cards"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def process(*command, environment=(), **options) -> subprocess.CompletedProcess:
    """Run a script, a module (-m) or a text (-c) of Python in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | dict(environment)
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 600} | options
    return subprocess.run([sys.executable, *map(str, command)], env=env, check=False, **options)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder: a file's content, None for a folder."""
    found = sorted(folder.rglob("*")) if folder.exists() else []
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found}


def tone(length: int = 1600, rate: int = 16000, hertz: float = 440.0, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * hertz * torch.arange(length, dtype=torch.float64) / rate)


def encoded(format: str, subtype: str, x: Any = None, rate: int = 16000, **options) -> bytes:
    """The bytes of an audio file, of a tone where nothing else is given."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.asarray(tone() if x is None else x), rate, format=format, subtype=subtype, **options)
    return buffer.getvalue()


def speechlike(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Voiced sound with pauses, (batch, length) float32: enough structure for every measure and method to work on."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 16000
    pitch = 100 + 80 * torch.rand(batch, 1, generator=g)
    voice = sum(torch.sin(2 * torch.pi * k * pitch * t + k) / k for k in range(1, 20))
    syllables = torch.sin(2 * torch.pi * (3 + torch.rand(batch, 1, generator=g)) * t).clamp_min(0)
    return 0.1 * voice * syllables + 1e-4 * torch.randn(batch, length, generator=g)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(made: Any, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A network with parameters drawn at random, frozen: each of them matters, and none is in its place."""
    g = torch.Generator().manual_seed(seed)
    for p in made.to(dtype).parameters():
        fan_in = p[0].numel() if p.ndim > 1 else len(p)
        p.data = (torch.randn(p.shape, generator=g, dtype=torch.float64) / fan_in**0.5).to(dtype)
    return made.requires_grad_(False).eval()


def moved(made: Any, *, seed: int = 0, dtype: torch.dtype = torch.float64, by: Callable[[str], float]) -> Any:
    """A network away from its start, where some of its parts do nothing, frozen."""
    g = torch.Generator().manual_seed(seed)
    made.start(g)
    for name, p in made.named_parameters():
        p.data += by(name) * torch.randn(p.shape, generator=g)
    return made.to(dtype).requires_grad_(False).eval()


def drawn_vae(latent: int = 3, hidden: int = 8, **choices) -> VAE:
    return drawn(VAE(STFT(16, 8), latent, hidden), **choices)


def drawn_rvae(latent: int = 3, hidden: int = 8, *, fast: bool | None = None, **choices) -> RVAE:
    return drawn(RVAE(STFT(16, 8), latent, hidden, fast), **choices)


def drawn_flow(
    hidden: int = 8, *, seed: int = 0, dtype: torch.dtype = torch.float64, away: float = 1.0, **choices
) -> WaveGlow:
    made = WaveGlow(hidden=hidden, **choices)
    return moved(made, seed=seed, dtype=dtype, by=lambda name: away * (0.03 if "coupling" in name else 0.005))


def drawn_score(*, seed: int = 0, dtype: torch.dtype = torch.float64, **choices) -> Denoiser:
    return moved(Denoiser(**{"channels": (8, 8)} | choices), seed=seed, dtype=dtype, by=lambda name: 0.1)


def drawn_descript(*, dtype: torch.dtype = torch.float32) -> Descript:
    """One that neither explodes nor lacks a wave."""
    made = drawn(Descript(encoder_dim=4, decoder_dim=32, width=8), dtype=dtype)
    for name, p in made.named_parameters():
        p.copy_(p.abs() + 0.5 if name.endswith("alpha") else p / 2)
    return made


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made in a second: a split has two speakers with three files of 2 s each, and two kinds of noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []

    def add(path: str, x: torch.Tensor, **about: str) -> None:
        audio.write(folder / path, x, 16000)
        row = dict.fromkeys(FIELDS, "") | {"path": path, "seconds": len(x) / 16000, "licence": "CC0", "source": path}
        rows.append(row | about)

    for s, split in enumerate(("train", "valid", "test")):
        for speaker in (10 * s, 10 * s + 1):
            for i, x in enumerate(speechlike(3, 32000, seed=speaker)):
                who = {"corpus": "mini-librispeech", "kind": "speech", "speaker": str(speaker), "gender": "FM"[i % 2]}
                add(f"speech/{split}/{speaker}-{i}.flac", x, split=split, **who)
        g = torch.Generator().manual_seed(s)
        hiss = 0.1 * torch.randn(16000, generator=g)
        bursts = 0.1 * torch.randn(80000, generator=g) * (torch.arange(80000) // 8000 % 2)
        for cls, x in {"street": hiss, "home": bursts}.items():
            add(f"noise/{split}/{cls}.flac", x, corpus="noise", kind="noise", cls=cls, split=split)
    write_manifest(folder, pd.DataFrame(rows))
    return folder


@pytest.fixture
def toy(corpus_folder: Path) -> Corpora:
    return open_corpora(corpus_folder)
