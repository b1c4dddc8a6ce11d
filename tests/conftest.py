"""What the tests share: float64 by default, one torch thread, and a browser."""

import numpy as np
import pytest
import torch
from browser import browser  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture
def double():
    """Identities are checked in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def speechlike(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Voiced sound with pauses, (batch, length) float32: enough structure for every measure and method to work on."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 16000
    pitch = 100 + 80 * torch.rand(batch, 1, generator=g)
    voice = sum(torch.sin(2 * torch.pi * k * pitch * t + k) / k for k in range(1, 20))
    syllables = torch.sin(2 * torch.pi * (3 + torch.rand(batch, 1, generator=g)) * t).clamp_min(0)
    return 0.1 * voice * syllables + 1e-4 * torch.randn(batch, length, generator=g)
