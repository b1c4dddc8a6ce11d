"""On CUDA what holds on a CPU: left out where there is none (conftest.py)."""

import numpy as np
import pytest
import torch
from conftest import alike, drawn_rvae, drawn_vae, speechlike

from sepriors import METHODS, OracleWiener, enhance, make, mix, precision, priors
from sepriors.methods import FlowTweedie
from sepriors.signal.spp import white_variance

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def mixture():
    noise = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    return mix(speechlike(3, 16000), noise, 5.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_and_the_signal_stays_where_it_is(mixture, name):
    x = mixture.noisy.cuda()
    speech = enhance(x, make(name))
    assert speech.is_cuda
    assert speech.dtype == torch.float32
    assert speech.isfinite().all()
    assert speech.equal(enhance(x, make(name)))  # one seed, one result
    assert enhance(x[0], make(name)).isfinite().all()


@pytest.mark.parametrize("name", ["spp-wiener", "nmf-supervised", "nmf", "bsse", "use-ddp"])
def test_what_draws_nothing_is_as_on_a_cpu(mixture, name):
    """Random numbers of a GPU are others: what draws none, or little, gives the same."""
    on_cpu, on_gpu = (enhance(mixture.noisy.to(device), make(name)).cpu() for device in ("cpu", "cuda"))
    assert (on_gpu - on_cpu).norm() < 0.05 * on_cpu.norm()


@pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])
def test_the_shape_of_posteriors_is_one_matrix(prior):
    on_cpu, on_gpu = prior(dtype=torch.float32).posterior_shape(), prior(dtype=torch.float32).cuda().posterior_shape()
    assert on_gpu.is_cuda
    assert alike(on_gpu.cpu(), on_cpu, 1e-3)


def test_what_a_method_knows_of_each_file_is_cut_there_too(mixture):
    there = type(mixture)(*(part.cuda() for part in mixture[:3]), mixture.snr_db, mixture.key)
    assert enhance(there.noisy, OracleWiener.from_mixture(there)).isfinite().all()
    flow = priors.load("waveglow-noisy", device="cuda")
    assert enhance(there.noisy, FlowTweedie(flow, variance=white_variance(there.noisy))).isfinite().all()


def test_half_precision_is_what_this_gpu_has(mixture):
    capability = torch.cuda.get_device_capability()
    with torch.inference_mode():
        half = precision.half("cuda")
    assert half == (torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else None)
    net = priors.load("score", device="cuda")
    X = net.compression(net.stft(mixture.noisy.cuda()))
    with torch.inference_mode():
        means = []
        for net.fast in (None, False):
            means.append(net.denoise(X, 0.3).mean)
    assert (means[0] - means[1]).norm() < 0.02 * means[1].norm()


def test_numpy_stays_on_the_cpu(mixture):
    assert isinstance(enhance(mixture.noisy.numpy(), make("spp-wiener")), np.ndarray)
