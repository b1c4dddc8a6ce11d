"""On CUDA what holds on a CPU: left out where there is none (conftest.py)."""

import pytest
import torch
from conftest import alike, drawn_rvae, drawn_vae, speechlike

from sepriors import METHODS, FlowTweedie, Mixture, OracleWiener, enhance, load, make, mix, precision
from sepriors.signal.spp import white_variance

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def mixture():
    noise = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    return mix(speechlike(3, 16000), noise, 5.0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_and_the_signal_stays_where_it_is(mixture, name):
    """One seed, one result; random numbers of a GPU are others: what draws none, or little, is as on a CPU."""
    x, method = mixture.noisy.cuda(), make(name)
    speech = enhance(x, method)
    assert speech.is_cuda
    assert speech.dtype == torch.float32
    assert speech.isfinite().all()
    assert speech.equal(enhance(x, make(name)))
    assert enhance(x[0], method).isfinite().all()
    if name in ("spp-wiener", "nmf-supervised", "nmf", "bsse", "use-ddp"):
        on_cpu = enhance(mixture.noisy, method)
        assert (speech.cpu() - on_cpu).norm() < 0.05 * on_cpu.norm()


@pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])
def test_the_shape_of_posteriors_is_one_matrix(prior):
    on_cpu, on_gpu = prior(dtype=torch.float32).posterior_shape(), prior(dtype=torch.float32).cuda().posterior_shape()
    assert on_gpu.is_cuda
    assert alike(on_gpu.cpu(), on_cpu, 1e-3)


def test_what_a_method_knows_of_each_file_is_cut_there_too(mixture):
    there = Mixture(*(part.cuda() for part in mixture[:3]), mixture.snr_db, mixture.key)
    assert enhance(there.noisy, OracleWiener.from_mixture(there)).isfinite().all()
    method = FlowTweedie(load("waveglow-noisy", device="cuda"), variance=white_variance(there.noisy))
    assert enhance(there.noisy, method).isfinite().all()


def test_half_precision_is_what_this_gpu_has(mixture):
    capability = torch.cuda.get_device_capability()
    net = load("score", device="cuda")
    X = net.compression(net.stft(mixture.noisy.cuda()))
    with torch.inference_mode():
        half = precision.half("cuda")
        means = []
        for net.fast in (None, False):
            means.append(net.denoise(X, 0.3).mean)
    assert half == (torch.bfloat16 if capability >= (8, 0) else torch.float16 if capability >= (7, 0) else None)
    assert (means[0] - means[1]).norm() < 0.02 * means[1].norm()
