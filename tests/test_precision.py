"""Half precision is a matter of the hardware: each path is forced here, whatever this machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import drawn_flow, drawn_rvae, drawn_score

from sepriors import enhance, precision
from sepriors.inference.flows import SignalPosterior
from sepriors.methods import FlowMAP, FlowTweedie

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("native", "kernels", "onednn", "half"), [
    (True, "AVX512", True, torch.bfloat16),
    (False, "AVX512", True, None),
    (True, "AVX2", True, None),  # ATEN_CPU_CAPABILITY=avx2
    (True, "AVX512", False, None),  # ONEDNN_MAX_CPU_ISA=AVX2
])  # fmt: skip
def test_a_processor_has_bfloat16_where_it_and_both_libraries_have_it(monkeypatch, native, kernels, onednn, half):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.setattr(precision, "_onednn_has_bfloat16", lambda: onednn)
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", precision._cpu_has_bfloat16.__wrapped__)
    assert precision.half("cpu") == half
    with precision.autocast(torch.zeros(1)):
        assert torch.is_autocast_enabled("cpu") == (half is not None)


@pytest.mark.parametrize(("capability", "without_gradients", "with_gradients"), [
    ((6, 0), None, None),
    ((7, 5), torch.float16, None),  # Turing: a T4
    ((8, 0), torch.bfloat16, torch.bfloat16),
], ids=str)  # fmt: skip
def test_a_gpu_has_what_its_generation_has(monkeypatch, capability, without_gradients, with_gradients):
    """Gradients leave the range of float16, so there it is single precision that they get."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with torch.inference_mode():
        assert precision.half("cuda") == without_gradients
    with torch.enable_grad():
        assert precision.half("cuda") == with_gradients


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float16, torch.int64], ids=str)
def test_only_a_signal_in_single_precision_is_computed_in_half(dtype):
    for fast in (None, True, False):
        with precision.autocast(torch.zeros(1, dtype=dtype), fast):
            assert not torch.is_autocast_enabled("cpu")


def rvae(fast):
    made = drawn_rvae(16, 128, dtype=torch.float32, fast=fast)
    z = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_V = made.log_variance(z)
    return torch.cat([log_V.detach().flatten(), torch.autograd.grad(log_V.sum(), z)[0].flatten()])


def flow(fast):
    s = 0.03 * torch.randn(2, 1600, generator=torch.Generator().manual_seed(0))
    target = SignalPosterior(drawn_flow(16, dtype=torch.float32), s, torch.full((2,), 1e-3), fast)
    return torch.cat([target.logp(s), target.score(s).flatten()])


def score(fast):
    made = drawn_score(dtype=torch.float32, fast=fast)
    x = 0.3 * torch.randn(2, 257, 16, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.view_as_real(made.denoise(x, 0.3).mean).flatten()


@pytest.mark.parametrize("network", [rvae, flow, score], ids=lambda f: f.__name__)
@pytest.mark.parametrize("native", [True, False])
def test_by_itself_a_network_takes_the_path_of_the_hardware(monkeypatch, network, native):
    """Half precision is nearly single precision, and no more than nearly; `fast` None is one of the two, to the bit."""
    single, half = network(False), network(True)
    assert not half.equal(single)
    assert (half - single).norm() < 0.02 * single.norm()
    monkeypatch.setattr(precision, "half", lambda device: torch.bfloat16 if native else None)
    assert network(None).equal(half if native else single)


@pytest.mark.parametrize("network", [rvae, score], ids=lambda f: f.__name__)
def test_in_float16_as_on_a_T4(monkeypatch, network):
    """Where no gradient passes; its three more bits make it nearer to single precision than bfloat16 is."""
    monkeypatch.setattr(precision, "half", lambda device: None if torch.is_grad_enabled() else torch.float16)
    monkeypatch.setattr("sepriors.priors.rvae.lstm_precision", lambda x: torch.autocast("cpu", enabled=False))
    single, half = network(False), network(None)
    assert half.isfinite().all()
    assert (half - single).norm() < 2e-3 * single.norm()


def test_a_processor_limited_to_avx2_enhances():
    """oneDNN's LSTM raised there: every network that half precision is for, with its trained weights."""
    limited = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}
    code = """
import torch, sepriors as sp
from sepriors import precision
assert precision.half("cpu") is None
assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "DEFAULT", "NO AVX"), torch.backends.cpu.get_cpu_capability()
x = 0.03 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
for name, rounds in {"rvae-vem": 2, "rvae-fast": 2, "udiffse-fast": 2, "flow-map": 3, "flow-tweedie": 1}.items():
    assert sp.enhance(x, sp.make(name, iterations=rounds)).isfinite().all(), name
sp.load("rvae").posterior_shape()
"""
    environment = os.environ | limited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cls", [FlowMAP, FlowTweedie])
def test_half_precision_at_any_cost(cls):
    """`fast` True is taken at its word by a method that has the choice, on a processor of any kind."""
    prior = drawn_flow(conditional=cls is FlowTweedie, dtype=torch.float32, away=0.3)
    x = 0.1 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
    quick, exact = (enhance(x, cls(prior, iterations=2, fast=fast)) for fast in (True, False))
    assert quick.isfinite().all()
    assert not quick.equal(exact)
