"""Every method of the list keeps the same promises."""

import math
import os
import threading
import warnings
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import alike, drawn_flow, drawn_rvae, drawn_score, drawn_vae, speechlike

from sepriors import ISNMF, METHODS, STFT, OracleWiener, SPPWiener, enhance, load, make, methods, metrics, mix, priors
from sepriors.inference import diffusion, nmf
from sepriors.inference.em import GibbsE, Linearised, ReverseE, Step, StepE, em
from sepriors.inference.flows import denoise
from sepriors.inference.latent import MCMC
from sepriors.inference.mcmc import MALA, RandomWalk
from sepriors.lab import bench
from sepriors.lab.corpora import bench_set, open_corpora
from sepriors.methods import (
    CompressedDomain,
    FlowLangevin,
    FlowMAP,
    FlowTweedie,
    MethodError,
    ScoreEM,
    Separator,
    Supervised,
    VarianceEM,
    _spans,
    white,
)
from sepriors.protocols import Denoised
from sepriors.signal.audio import AudioError
from sepriors.signal.rng import generators
from sepriors.signal.spp import white_variance
from sepriors.signal.stft import Compression

DATA = os.environ.get("SEPRIORS_DATA")


def noisy(batch=3, length=5000, snr=5.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return mix(speechlike(batch, length, seed), torch.randn(batch, length, generator=g), snr)


@pytest.fixture(scope="module")
def made():
    """All methods, with few rounds: what holds after some of them holds after 100."""
    few = {name: make(name) for name in METHODS}
    rounds = {name: 2 if name.startswith("rvae") else 4 for name in METHODS}
    rounds |= {"udiffse": 1, "udiffse-plus": 4, "depse": 4}
    made = {name: replace(m, iterations=min(m.iterations, rounds[name])) for name, m in few.items()}
    for name, steps in (("udiffse", 10), ("udiffse-plus", 8), ("depse", 4)):  # whole reverse processes, but short ones
        made[name] = replace(made[name], estep=partial(made[name].estep, steps=steps, draws=1))
    made["diffusion-supervised"] = replace(made["diffusion-supervised"], iterations=6, draws=1)
    for name, m in made.items():
        if isinstance(latent := getattr(m, "latent", None), MCMC):  # and short chains
            short = {"steps": min(latent.steps, 2), "final_steps": min(latent.final_steps, 2)}
            made[name] = replace(m, latent=latent._replace(**short, final_keep=1, final_times=1))
    return made


@pytest.fixture(params=[*METHODS])
def method(request, made):
    return made[request.param]


def for_company(method, x):
    """Signals in which rounding decides nothing: a sampler that accepts or rejects has them in double precision.

    In single precision a proposal in doubt may be taken in company and not alone; .01 of the peak was seen.
    """
    kernel = getattr(getattr(method, "latent", None), "kernel", None)
    return x.double() if isinstance(kernel, (MALA, RandomWalk)) else x


def test_alone_or_in_company(method):
    """The same call gives the same bits; alone and in company differ by rounding at most."""
    x = for_company(method, noisy(5, 5000).noisy)  # more than a method takes at once
    gpu_batch_size = enhance(x, method, seed=3)
    for i in (0, 4):
        alone = enhance(x[i], method, seed=3)
        assert alike(alone, gpu_batch_size[i])
        assert enhance(x[i : i + 1], method, seed=3)[0].equal(alone)
    assert alike(enhance(x[1:3], method, seed=3), gpu_batch_size[1:3])
    assert enhance(x.reshape(5, 1, -1), method, seed=3).equal(gpu_batch_size.reshape(5, 1, -1))


def test_utterances_of_different_lengths(method):
    """In their order, whatever shares a batch with what."""
    lengths = (3000, 4100, 1, 3000, 3000, 4100)
    rows = [x[:n] for x, n in zip(for_company(method, noisy(6, 4100).noisy), lengths)]
    got = enhance(rows, method, seed=range(6))
    assert isinstance(got, list)
    for i, (row, speech) in enumerate(zip(rows, got, strict=True)):
        assert alike(speech, enhance(row, method, seed=i))


def test_no_utterances(method):
    assert enhance([], method) == []
    with pytest.raises(ValueError, match="expected 2 seeds"):
        enhance([torch.ones(5), torch.ones(6)], method, seed=[1])


def test_a_seed_for_each_utterance(method):
    x = for_company(method, noisy().noisy)
    got = enhance(x, method, seed=[5, 6, 7])
    for row, seed, expected in zip(x, (5, 6, 7), got, strict=True):
        assert alike(enhance(row, method, seed=seed), expected)
    assert enhance(x, method, seed=[5, 6, 7]).equal(got)
    with pytest.raises(ValueError, match="expected 3 seeds"):
        enhance(x, method, seed=[1, 2])


@pytest.mark.parametrize("length", [1, 2, 100, 255, 1023, 5000])
def test_any_length_is_kept(method, length):
    x = noisy(2, max(length, 4000)).noisy[:, :length]
    got = enhance(x, method)
    assert got.shape == x.shape
    assert got.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_come_from_the_signal(method, dtype):
    got = enhance(noisy(1, 4000).noisy.to(dtype), method)
    assert got.dtype == dtype
    assert got.device.type == "cpu"
    assert not got.requires_grad
    assert not got.is_inference()


def test_silence_stays_silent(method):
    for dtype in (torch.float32, torch.float64):
        assert not enhance(torch.zeros(2, 5000, dtype=dtype), method).any()
    x = noisy(1, 12000).noisy
    x[:, 4000:8000] = 0  # digital silence amid it
    got = enhance(x, method)
    assert got.isfinite().all()
    least = 1e-3 if type(method).__name__.startswith("Flow") else 0  # flows see the noise around it, and no frames
    assert got[:, 5100:6900].abs().max() <= least
    assert got.square().mean() > 0.01 * x.square().mean()


def test_a_silent_utterance_spoils_no_other(method):
    x = for_company(method, noisy(3, 4000).noisy)
    x[1] = 0
    got = enhance(x, method)
    assert not got[1].any()
    assert alike(got[0], enhance(x[0], method))
    assert alike(got[2], enhance(x[2], method))


def test_a_click_in_silence_and_a_clipped_signal_stay_finite(method):
    x = torch.zeros(3, 6000)
    x[0, 3000] = 1
    x[1] = torch.sin(torch.arange(6000) * 0.1).mul(100).clamp(-1, 1)
    x[2] = 1e-30 * torch.sin(torch.arange(6000) * 0.1)
    got = enhance(x, method)
    assert got.isfinite().all()
    assert (got.abs().amax(-1) <= 1.5 * x.abs().amax(-1))[[0, 2]].all()
    assert got[1].square().mean() <= 4 * x[1].square().mean()  # x less at most as much


@pytest.mark.parametrize("gain", [2.0**-10, 2.0**7])
@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("vae-")])
def test_a_variance_prior_sees_every_mixture_at_one_level(made, name, gain):
    x = noisy(2, 4000).noisy
    assert enhance(gain * x, made[name]).equal(gain * enhance(x, made[name]))


@pytest.mark.parametrize("gain", [1e-3, 10.0])
def test_louder_in_louder_out(method, gain):
    x = noisy().noisy.double()
    torch.testing.assert_close(enhance(gain * x, method), gain * enhance(x, method), rtol=1e-3, atol=1e-4 * gain)


def test_the_signal_is_not_written_to(method):
    x = noisy().noisy
    before = x.clone()
    enhance(x, method)
    assert x.equal(before)


def test_steps_can_be_looked_at_one_by_one(method):
    x = for_company(method, noisy(1, 4000).noisy)
    steps = list(method(x, generators=generators(0, 1)))
    assert [s.iteration for s in steps] == list(range(method.iterations))
    assert all(s.estimate().shape == x.shape for s in steps)
    assert alike(steps[-1].estimate(), enhance(x, method))


def test_no_click_at_the_end_of_a_file(method):
    """Whatever the length, the last samples are no louder than what went in."""
    g = torch.Generator().manual_seed(0)
    for extra in (0, 1, 127, 128, 200, 255):
        x = 0.1 * torch.randn(4, 6144 + extra, generator=g)
        assert enhance(x, method)[:, -32:].abs().max() < 0.45


@pytest.mark.corpora
def test_noise_goes_down_and_speech_stays():
    """The whole methods, on steady noise that suits them all: SI-SDR rises by 2 dB or more."""
    if DATA:
        m = bench_set(open_corpora(DATA), "white", files=2, seconds=2, snrs=[0.0])[0]
    else:
        m = noisy(4, 32000, snr=0.0)
    # to `nmf` a voice that never changes is noise, and `use-ddp` knows noise from recordings: a test of its own
    for name in [name for name in METHODS if name != "use-ddp"] if DATA else ("spp-wiener", "nmf-supervised"):
        method = make(name)
        method = replace(method, iterations=1) if name == "udiffse" else method  # a round of its five: time
        gain = metrics.si_sdr(m.clean, enhance(m.noisy, method)) - metrics.si_sdr(m.clean, m.noisy)
        assert gain.mean() > 2, name


@pytest.mark.corpora
@pytest.mark.parametrize("corpus", ["synthetic", *([DATA] if DATA else [])])
def test_noise_that_was_learned_from_recordings_goes_down(corpus):
    """In recorded noise SI-SDR rises, and it is the prior that raises it, not the codec that it is made of."""
    m = bench_set(open_corpora(corpus), "real", files=6, seconds=3.0, snrs=[0.0])[0]
    with_it, without = (
        metrics.si_sdr(m.clean, enhance(m.noisy, method)) - metrics.si_sdr(m.clean, m.noisy)
        for method in (make("use-ddp"), Separator(priors.load("codec")))
    )
    assert with_it.mean() > 0.5
    assert (with_it - without).mean() > 0.5


def test_the_oracle_is_a_ceiling(made):
    m = noisy(4, 32000, snr=0.0)
    oracle = metrics.si_sdr(m.clean, enhance(m.noisy, OracleWiener.from_mixture(m)))
    assert (oracle > metrics.si_sdr(m.clean, m.noisy) + 6).all()
    for method in made.values():
        assert (oracle > metrics.si_sdr(m.clean, enhance(m.noisy, method))).all()


def test_the_oracle_of_clean_speech_and_of_noise():
    m = noisy()
    untouched = enhance(m.noisy, OracleWiener(m.noisy, torch.zeros_like(m.noisy)))
    torch.testing.assert_close(untouched, m.noisy, atol=1e-6, rtol=0)
    assert not enhance(m.noisy, OracleWiener(torch.zeros_like(m.noisy), m.noisy)).any()
    s, n = OracleWiener(m.clean, m.noise), OracleWiener(m.noise, m.clean)
    torch.testing.assert_close(enhance(m.noisy, s) + enhance(m.noisy, n), m.noisy, atol=1e-6, rtol=0)


def test_more_rounds_fit_the_mixture_better():
    x = noisy(2).noisy.double()
    method = replace(make("nmf"), iterations=30)
    P = method.stft(x).abs().square()
    steps = list(method(x, generators=generators(0, 2)))
    levels = [s.noise.variance.mean() / P.mean() for s in steps]
    assert all(0 < float(level) < 2 for level in levels)
    assert not steps[0].estimate().equal(steps[-1].estimate())


def test_supervised_keeps_its_noise_bases():
    W = load("nmf-noise-257").tensors["W"]
    method = replace(make("nmf-supervised"), iterations=4)
    for step in method(noisy(2).noisy, generators=generators(0, 2)):
        torch.testing.assert_close(step.noise.W, W.expand(2, -1, -1))
    learned = [s.noise.W for s in replace(method, noise_bases=None)(noisy(2).noisy, generators=generators(0, 2))]
    assert learned[0].shape == (2, 257, 8)
    assert not learned[0].equal(learned[-1])


def test_bases_of_another_transform():
    with pytest.raises(ValueError, match="power has F=257 but W has F=513; were they made with the same STFT"):
        enhance(torch.randn(4000), ISNMF(load("nmf-speech").tensors["W"], stft=STFT(512, 128)))


def test_a_variance_prior_and_noise_bases_of_another_transform():
    latent = MCMC(RandomWalk(), steps=1)
    wrong = VarianceEM(priors.load("vae"), latent, iterations=2, noise_bases=load("nmf-noise-257").tensors["W"])
    with pytest.raises(ValueError, match="power has F=513 but W has F=257; were they made with the same STFT"):
        enhance(torch.randn(4000), wrong)


def test_a_variance_prior_keeps_the_noise_bases_it_is_given():
    W, x = load("nmf-noise-257").tensors["W"], noisy(2, 4000).noisy
    method = VarianceEM(priors.load("vae-257"), MCMC(RandomWalk(), steps=1), iterations=3, noise_bases=W)
    steps = list(method(x, generators=generators(0, 2)))
    for step in steps:
        torch.testing.assert_close(step.noise.W, W.expand(2, -1, -1))
    assert not steps[-1].noise.H.equal(steps[0].noise.H)
    learned = list(replace(method, noise_bases=None, rank=5)(x, generators=generators(0, 2)))
    assert learned[0].noise.W.shape == (2, 257, 5)
    assert not learned[-1].noise.W.equal(learned[0].noise.W)


def test_the_floor_of_spp_is_a_floor():
    x = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    levels = [enhance(x, SPPWiener(floor_db=f))[:, 8000:].square().mean() for f in (-30.0, -20.0, -10.0)]
    assert levels[0] < levels[1] < levels[2]
    least = 20 * math.log10(10 ** (-10 / 10) / (1 + 10 ** (-10 / 10)))
    assert 10 * math.log10(levels[2] / 0.01) > least - 1


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0), "noisy: expected at least one sample"),
        (torch.zeros(100, dtype=torch.int16), "noisy: expected floating-point samples"),
        (torch.full((100,), math.nan), "noisy: expected finite samples"),
        (torch.full((2, 100), math.inf), "noisy: expected finite samples"),
        ([0.0], "noisy, 1 of 1: expected a torch.Tensor"),
        ([torch.zeros(5), torch.zeros(0)], "noisy, 2 of 2: expected at least one sample"),
        ([torch.zeros(5), torch.zeros(1, 6)], "expected utterances of shape .* in a list, got .1, 6."),
    ],
)
def test_what_is_no_speech(method, x, message):
    with pytest.raises(AudioError, match=message):
        enhance(x, method)


def test_unknown_methods():
    with pytest.raises(MethodError, match="unknown method 'nfm'; did you mean nmf"):
        make("nfm")
    with pytest.raises(MethodError, match="unknown method '%'; did you mean spp-wiener or nmf-supervised or nmf"):
        make("%")


def test_the_list():
    for name, entry in METHODS.items():
        assert entry.about
        assert make(name).iterations >= 1
        for card in entry.cards:
            assert load(card).tensors
    with pytest.raises(AttributeError):
        make("nmf").rank = 3


@pytest.mark.parametrize("name", ["vae-mcem", "vae-ldem", "vae-peem", "vae-vem"])
def test_a_method_made_in_inference_mode_still_has_its_gradients(name):
    x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    expected = enhance(x, replace(make(name), iterations=3))
    with torch.inference_mode():
        assert enhance(x, replace(make(name), iterations=3)).equal(expected)


# ------------------------------------------------------------- long files, and parts side by side


@pytest.mark.parametrize("longest", [1.5, 2.0, 30.0])
def test_pieces_of_a_long_file(max_seconds):
    """They cover it, are as long as may be, share a second or more, and are no more than that takes."""
    size = round(16000 * max_seconds)
    edges = [1, size - 1, size, size + 1, size + 2, 2 * size - 16000, 2 * size - 15999, 10 * size]
    for length in [*edges, *range(size, 4 * size, 997)]:
        spans = _spans(length, max_seconds)
        if length <= size:
            assert spans == [(0, length)]
            continue
        starts, stops = zip(*spans)
        assert {stop - start for start, stop in spans} == {size}
        assert (starts[0], stops[-1]) == (0, length)
        assert all(a < b for a, b in pairwise(starts))
        assert all(stop - start >= 16000 for stop, start in zip(stops, starts[1:]))
        assert (len(spans) - 1) * (size - 16000) + 16000 < length  # with one less they could not
    assert _spans(10**9, math.inf) == [(0, 10**9)]


@dataclass(frozen=True)
class Filter:
    """A fixed filter, linear and short: what becomes of it in pieces is known."""

    taps: tuple[float, ...]
    max_seconds: float = 2.0
    batch_size: int = 2
    parallel: bool = False
    iterations: int = 1

    def __call__(self, x, *, generators):
        taps = torch.tensor(self.taps).to(x)[None, None]
        y = torch.nn.functional.conv1d(x[:, None], taps, padding=len(self.taps) // 2)[:, 0]
        yield Step(0, None, lambda: y)


@dataclass(frozen=True)
class Level(Filter):
    """Each piece becomes a constant, its mean: no two of them agree."""

    def __call__(self, x, *, generators):
        yield Step(0, None, lambda: x.mean(-1, keepdim=True).expand_as(x).clone())


@pytest.mark.parametrize("seconds", [2.5, 3.0, 7.77])
def test_pieces_of_what_is_linear_make_the_whole(seconds):
    x = torch.randn(2, round(16000 * seconds), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gain = Filter((0.3,))
    torch.testing.assert_close(enhance(x, gain), 0.3 * x)
    smooth = Filter((0.25, 0.5, 0.25))  # at a piece's ends a sample sees a zero in place of its neighbour, unheard
    whole = enhance(x, replace(smooth, max_seconds=math.inf))
    assert not enhance(x, smooth).equal(whole)
    torch.testing.assert_close(enhance(x, smooth), whole, rtol=0, atol=1.01 * 0.25 * float(x.abs().max()) / 16000)


@pytest.mark.parametrize("seconds", [2.001, 2.9, 3.0, 5.3])
def test_pieces_that_disagree_are_faded_over(seconds):
    """What one piece alone has seen is its own; from one to the next it takes a second, however far they overlap."""
    x = torch.linspace(0, 1, round(16000 * seconds), dtype=torch.float64) ** 2
    spans = _spans(len(x), 2.0)
    means = torch.stack([x[a:b].mean() for a, b in spans])
    y = enhance(x, Level(()))
    for i, ((a, b), mean) in enumerate(zip(spans, means)):
        alone = slice(spans[i - 1][1] if i else a, spans[i + 1][0] if i + 1 < len(spans) else b)
        torch.testing.assert_close(y[alone], mean.expand_as(y[alone]), rtol=1e-14, atol=0)
    assert y.diff().min() > -1e-12
    assert y.diff().max() < 1.01 * (means[-1] - means[0]) / 16000


def test_a_long_file_by_a_prior():
    """Far from the seams it is the piece's own estimate; near them no sample jumps more than elsewhere."""
    x = noisy(1, 56000).noisy[0]
    method = VarianceEM(priors.load("vae-257"), MCMC(RandomWalk(), steps=2), iterations=8, max_seconds=2.0)
    got, spans = enhance(x, method), _spans(56000, 2.0)
    assert spans == [(0, 32000), (12000, 44000), (24000, 56000)]
    pieces = [enhance(x[a:b], method) for a, b in spans]
    torch.testing.assert_close(got[:12000], pieces[0][:12000], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[44000:], pieces[2][20000:], rtol=1e-6, atol=0)
    jumps = got.diff().abs()
    seams = [slice(at - 20, at + 20) for at in (12000, 24000, 32000, 44000)]
    assert max(jumps[seam].max() for seam in seams) < jumps.quantile(0.999)
    whole = enhance(x, replace(method, max_seconds=100.0))
    assert not whole.equal(got)
    assert metrics.si_sdr(whole, got) > 10


def test_a_long_file_is_alike_alone_and_in_company():
    x = noisy(2, 40000).noisy
    rows = [x[0], x[1, :5000], x[1], x[0, :32000]]
    method = VarianceEM(drawn_vae(dtype=torch.float32), MCMC(RandomWalk(), steps=1), iterations=2, max_seconds=2.0)
    got = enhance(rows, method, seed=range(4))
    for i, row in enumerate(rows):
        assert got[i].equal(enhance(row, method, seed=i))


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("prior", [drawn_vae, drawn_rvae])
def test_parts_side_by_side_change_nothing(prior, request):
    """Each has one thread, as a part by itself would where there is but one; the same call gives the same bits."""
    x = noisy(5, 5000).noisy.double()  # for a sampler that accepts or rejects
    rows = [*x, x[1, :3000], x[2, :4000]]
    method = VarianceEM(prior(), MCMC(RandomWalk(), steps=1), iterations=2)
    expected = enhance(rows, method, seed=range(7))
    request.getfixturevalue("two_threads")
    parallel = replace(method, parallel=True)
    first, again = (enhance(rows, parallel, seed=range(7)) for _ in range(2))
    for a, b, c in zip(first, again, expected, strict=True):
        assert a.equal(b)
        assert alike(a, c)
    assert enhance([], parallel) == []
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_alone_and_in_company_with_two_threads_and_parts_side_by_side():
    x = noisy(5, 5000).noisy.double()
    method = VarianceEM(drawn_vae(), MCMC(RandomWalk(), steps=1), iterations=2, parallel=True)
    for row, expected in zip(x, enhance(x, method), strict=True):
        assert alike(enhance(row, method), expected)


@pytest.mark.usefixtures("two_threads")
def test_what_fails_beside_fails():
    @dataclass(frozen=True)
    class Failing(Filter):
        def __call__(self, x, *, generators):
            raise RuntimeError("as it must")

    with pytest.raises(RuntimeError, match="as it must"):
        enhance(torch.zeros(6, 100), Failing((), parallel=True))


# ------------------------------------------------------------- flows, in white noise


def flow_method(name, **choices):
    """With an untrained flow, and few rounds."""
    if name == "map":
        return FlowMAP(drawn_flow(dtype=torch.float32), **{"iterations": 4} | choices)
    told = drawn_flow(conditional=True, dtype=torch.float32, away=0.3)  # no walk is stable where a flow bends more
    if name == "tweedie":
        return FlowTweedie(told, **{"iterations": 3} | choices)
    return FlowLangevin(told, **{"chains": 2, "iterations": 2, "steps": 1} | choices)


FLOWS = ["map", "tweedie", "langevin"]


class Hiss(torch.nn.Module):
    """White signals in white noise: with this prior all methods are Wiener's."""

    window, rms, clean = 80, 0.03, math.inf

    def log_prob(self, s, noise=None):
        v = torch.full_like(s[:, 0], self.rms**2) + (0 if noise is None else noise.square())
        return -0.5 * (s.square().sum(-1) / v + s.shape[-1] * (2 * math.pi * v).log())


def hiss(length):
    """White mixtures at two levels, the noise's variance in them, and what Wiener makes of them, with its variance."""
    x = torch.tensor([[1e-3], [3.0]]) * torch.randn(2, length, generator=torch.Generator().manual_seed(9)).double()
    power = x.square().mean(-1)
    variance = torch.tensor([0.2, 0.7]) * power
    return x, variance, x * (1 - variance / power)[:, None], variance * (1 - variance / power)


@pytest.mark.parametrize("length", [1000, 79])
def test_with_a_gaussian_prior_a_flow_method_is_wieners(length):
    x, variance, expected, _ = hiss(length)
    torch.testing.assert_close(enhance(x, FlowTweedie(Hiss(), variance)), expected)
    climbed = enhance(x, FlowMAP(Hiss(), variance, iterations=800))
    assert ((climbed - expected).square().mean(-1) < 1e-6 * x.square().mean(-1)).all()


@pytest.mark.parametrize("length", [1000, 79])
def test_with_a_gaussian_prior_the_mean_of_many_chains_is_wieners(length):
    x, variance, expected, start_variance = hiss(length)
    method = FlowLangevin(Hiss(), variance, chains=40, iterations=60)
    ratio = (enhance(x, method) - expected).square().mean(-1) / (start_variance / 40)
    assert ((ratio - 1).abs() < 0.1 + 4 * (2 / length) ** 0.5).all()


@pytest.mark.parametrize("length", [1, 79, 80, 81, 8000])
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_method_keeps_any_length(name, length):
    x = noisy(2, 8000).noisy[:, -length:]
    variance = 0.5 * x.square().mean(-1)  # less than all of it, which is what a short file's would be taken for
    for dtype in (torch.float32, torch.float64):
        got = enhance(x.to(dtype), flow_method(name, variance=variance))
        assert got.shape == x.shape
        assert got.dtype == dtype
        assert got.isfinite().all()
        assert not got.requires_grad
        assert not got.equal(x.to(dtype))


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_method_leaves_silence_alone(name):
    x = torch.cat([torch.zeros(2, 1000), noisy(1, 1000).noisy])
    got = enhance(x, flow_method(name))
    assert got.isfinite().all()
    assert got[2].equal(enhance(x[2], flow_method(name)))
    assert not got[:2].any()


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_method_alone_and_in_company(name):
    x = noisy(6, 2000).noisy  # more than it takes at once
    method = flow_method(name)
    gpu_batch_size = enhance(x, method, seed=3)
    assert gpu_batch_size.equal(enhance(x, method, seed=3))
    for row, expected in zip(x, gpu_batch_size):
        assert alike(enhance(row, method, seed=3), expected)
    assert alike(enhance(x[:1], method, seed=4), gpu_batch_size[:1]) == (name != "langevin")


@pytest.mark.parametrize("name", FLOWS)
def test_louder_in_louder_out_of_a_flow_method(name):
    x, method = noisy(2, 2000).noisy.double(), flow_method(name)
    torch.testing.assert_close(enhance(2 * x, method), 2 * enhance(x, method))
    torch.testing.assert_close(enhance(1e-3 * x, method), 1e-3 * enhance(x, method))


@pytest.mark.parametrize("name", FLOWS)
def test_a_variance_for_each_file(name):
    """Given or estimated, and cut as the batch is cut."""
    x = noisy(6, 2000).noisy
    given = flow_method(name, variance=white_variance(x))
    torch.testing.assert_close(
        enhance(x[:4], replace(given, variance=white_variance(x[:4]))), enhance(x[:4], flow_method(name))
    )
    assert not enhance(x[:4], replace(given, variance=2 * white_variance(x[:4]))).equal(
        enhance(x[:4], flow_method(name))
    )
    assert alike(enhance(x, given)[5], enhance(x[5], replace(given, variance=white_variance(x[5:]))))


@pytest.mark.parametrize("name", FLOWS)
def test_a_variance_for_each_file_of_a_list(name):
    """It goes with its file, wherever that comes to lie."""
    rows = [x[:n] for x, n in zip(noisy(6, 2000).noisy, (2000, 900, 2000, 900, 2000, 1200))]
    variance = 1e-3 * torch.arange(1.0, 7.0)
    got = enhance(rows, flow_method(name, variance=variance), seed=range(6))
    for i, row in enumerate(rows):
        assert alike(got[i], enhance(row, flow_method(name, variance=variance[i : i + 1]), seed=i))
    assert not got[3].equal(enhance(rows[3], flow_method(name, variance=variance[:1]), seed=3))
    with pytest.raises(ValueError, match="expected a positive variance of the noise for each of 6 files, got"):
        enhance(rows, flow_method(name, variance=variance[:5]))


@pytest.mark.parametrize("variance", [[0.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [1.0], [1.0] * 3, [[1.0], [1.0]], 1.0])
@pytest.mark.parametrize("name", FLOWS)
def test_a_variance_that_is_none(name, variance):
    with pytest.raises(ValueError, match="expected a positive variance of the noise for each of 2 files, got"):
        enhance(noisy(2, 4000).noisy, flow_method(name, variance=torch.tensor(variance)))


@pytest.mark.parametrize("name", FLOWS)
def test_what_is_no_speech_to_a_flow(name):
    with pytest.raises(AudioError, match="noisy: expected finite samples"):
        enhance(torch.full((100,), math.nan), flow_method(name))


@pytest.mark.parametrize("name", FLOWS)
def test_steps_of_a_flow_method(name):
    x, method = noisy(2, 2000).noisy, flow_method(name)
    steps = list(method(x, generators=generators(0, 2)))
    assert [step.iteration for step in steps] == list(range(method.iterations))
    assert alike(steps[-1].estimate(), enhance(x, method))
    with torch.inference_mode():  # where `enhance` makes its steps; and one that is made there
        assert enhance(x, flow_method(name)).equal(steps[-1].estimate())
        *_, last = flow_method(name)(x.clone(), generators=generators(0, 2))
        assert last.estimate().equal(steps[-1].estimate())


def test_a_mean_over_where_windows_begin():
    x, told = noisy(2, 2000).noisy, drawn_flow(conditional=True, dtype=torch.float32, away=0.3)
    made = white(x, told, None)
    means = [denoise(told, made.x, made.variance, offset=offset) for offset in (0, 20, 40, 60)]
    steps = list(FlowTweedie(told, iterations=4)(x, generators=generators(0, 2)))
    for i, step in enumerate(steps, start=1):
        torch.testing.assert_close(step.estimate(), made.back(sum(means[:i]) / i))
    assert not means[0].allclose(means[1])


def test_the_speech_of_a_mixture_at_the_level_that_a_flow_has_seen():
    m, prior = mix(0.1 * torch.randn(3, 4001).double(), torch.randn(3, 4001).double(), 5.0), Hiss()
    made = white(m.noisy, prior, m.noise.square().mean(-1))
    gain = prior.rms / (m.noisy.square().mean(-1) - m.noise.square().mean(-1)).sqrt()
    torch.testing.assert_close(made.x[:, :4001], gain[:, None] * m.noisy)
    torch.testing.assert_close(made.variance, gain.square() * m.noise.square().mean(-1))
    assert made.x.shape == (3, 4080)
    torch.testing.assert_close(made.back(made.x), m.noisy)


@pytest.mark.parametrize("weight", FlowMAP.PAPER.values())
def test_the_weight_of_the_paper(weight):
    """1 / (2 σ²) where speech has the prior's power: what the posterior has for σ², whatever the mixture's level."""
    seen = []
    stop = lambda target, now: seen.append(target) or torch.ones_like(now.logp, dtype=torch.bool)  # noqa: E731
    x = torch.tensor([[1e-3], [3.0]]) * noisy(2, 4000).noisy.double()
    prior = Hiss()
    assert enhance(x, FlowMAP(prior, weight=weight, stop=stop)).allclose(x)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].variance, torch.full((2,), 0.5 / weight).double())
    speech = seen[0].x.square().mean(-1) - seen[0].variance
    torch.testing.assert_close(speech, torch.full((2,), prior.rms**2).double(), rtol=1e-2, atol=0)


def test_a_climb_stops_at_the_likelihood_of_clean_speech():
    prior, x = Hiss(), noisy(2, 4000).noisy
    prior.clean = -math.inf
    assert enhance(x, FlowMAP(prior)).allclose(x)
    assert len(list(FlowMAP(prior)(x, generators=generators(0, 2)))) == 1
    never = FlowMAP(prior, iterations=7, stop=lambda target, now: torch.zeros(2, dtype=torch.bool))
    assert len(list(never(x, generators=generators(0, 2)))) == 7


def test_a_climb_that_is_told_the_noise():
    m = noisy(6, 2000)
    method = FlowMAP.oracle(drawn_flow(dtype=torch.float32), iterations=3)
    assert method(m).variance.equal(m.noise.square().mean(-1))
    assert method(m).iterations == 3
    (table,) = list(bench.run({"oracle": method}, [m], metrics=["si_sdr"]))[1:]
    alone = [enhance(m.noisy[b : b + 1], method(m._replace(noise=m.noise[b : b + 1]))) for b in range(6)]
    expected = metrics.si_sdr(m.clean, torch.cat(alone))
    torch.testing.assert_close(torch.tensor(table["si_sdr"].to_list()), expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------- score priors


def uneven(length, seed=0):
    """Four mixtures (4, N) in double precision at levels far apart."""
    return torch.tensor([[1e-4], [0.1], [1.0], [300.0]]) * noisy(4, length, seed=seed).noisy.double()


@pytest.mark.parametrize("length", [1, 127, 128, 129, 4000])
@pytest.mark.parametrize("compression", [Compression(), Compression(0.3, 2.0), Compression(1.0, 0.5)], ids=str)
def test_compressed_mixtures_have_a_greatest_amplitude_of_one_and_come_back(compression, length):
    x, prior = uneven(4000)[:, -length:], drawn_score(compression=compression)
    transform = CompressedDomain.like(x, prior)
    X = transform(x)
    assert X.shape == (4, 257, 1 + math.ceil(length / 128))
    torch.testing.assert_close(X.abs().amax((-2, -1)), torch.ones(4).double())
    apart = (transform.inverse(X, length) - x).abs().amax(-1)
    assert (apart < 1e-13 * x.abs().amax(-1)).all()


def test_what_is_compressed_is_the_spectrum_of_the_scaled_waveform():
    x, prior = uneven(4000), drawn_score()
    C = prior.stft(x)
    unit = (1 / prior.compression.beta) ** (1 / prior.compression.alpha)  # the amplitude that is compressed to 1
    scale = C.abs().amax((-2, -1)) / unit
    transform = CompressedDomain.like(x, prior)
    torch.testing.assert_close(transform.scale, scale[:, None])
    torch.testing.assert_close(transform(x), prior.compression(C / scale[:, None, None]))
    S = 0.5 * C  # its compressed amplitudes are not half as great
    torch.testing.assert_close(transform.inverse(prior.compression(S / scale[:, None, None]), 4000), 0.5 * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compressed_silence_is_silence(dtype):
    x = noisy(3, 4000).noisy.to(dtype)
    x[1] = 0
    x[2] = 1e-30 * x[0]
    transform = CompressedDomain.like(x, drawn_score())
    X = transform(x)
    back = transform.inverse(X, 4000)
    assert not X[1].any()
    assert not back[1].any()
    for made in (transform.scale, X, back):
        assert made.isfinite().all()
    torch.testing.assert_close(back[2], x[2], rtol=1e-3, atol=0)
    assert (back.dtype, transform.scale.dtype) == (dtype, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compressed_rows_do_not_feel_each_other(dtype):
    x, prior = uneven(4000).to(dtype), drawn_score()
    x[2] = 0
    gpu_batch_size = CompressedDomain.like(x, prior)
    for b in range(4):
        alone = CompressedDomain.like(x[b : b + 1], prior)
        X = alone(x[b : b + 1])
        assert alone.scale.equal(gpu_batch_size.scale[b : b + 1])
        assert X[0].equal(gpu_batch_size(x)[b])
        assert alone.inverse(X, 4000)[0].equal(gpu_batch_size.inverse(gpu_batch_size(x), 4000)[b])


def score_method(name, prior=None, **choices):
    """With an untrained network, and few rounds."""
    prior = prior or drawn_score(conditional=name == "diffusion-supervised", dtype=torch.float32)
    if name == "diffusion-supervised":
        return Supervised(prior, **{"iterations": 3, "draws": 2} | choices)
    esteps = {
        "reverse": partial(ReverseE, steps=3, draws=2),
        "step": partial(StepE, guide=diffusion.posterior_transition, steps=6, draws=2),
        "gibbs": partial(GibbsE, draws=2, burn=1),
        "first": partial(GibbsE, draws=2, burn=1),
    }
    first = speech_and_noise() if name == "first" else None
    return ScoreEM(prior, esteps[name], **{"iterations": 3, "rank": 2, "first": first} | choices)


def speech_and_noise(noise_bases=None):
    """A short run of an NMF with bases drawn at random, in the transform of a score network."""
    W = torch.rand(257, 6, generator=torch.Generator().manual_seed(1)) ** 4
    return ISNMF(W, noise_bases, STFT(512, 128), rank=3, iterations=4)


SCORES = ["reverse", "step", "gibbs", "first", "diffusion-supervised"]
every_score = pytest.mark.parametrize("name", SCORES)


@every_score
@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 4000])
def test_a_score_method_keeps_any_length(name, length):
    """Fewer samples than a hop, too."""
    x, method = noisy(2, 4000).noisy[:, -length:], score_method(name)
    for dtype in (torch.float32, torch.float64):
        got = enhance(x.to(dtype), method)
        assert got.shape == x.shape
        assert got.dtype == dtype
        assert got.isfinite().all()
        assert not got.requires_grad
        assert not got.is_inference()
        assert not got.equal(x.to(dtype))


@every_score
@pytest.mark.parametrize("length", [1, 2000])
def test_a_score_method_in_another_transform(name, length):
    prior = drawn_score(conditional=name == "diffusion-supervised", stft=STFT(64, 32), dtype=torch.float32)
    first = replace(speech_and_noise(), stft=STFT(64, 32), speech_bases=torch.ones(33, 2)) if name == "first" else None
    method = score_method(name, prior, **({} if name == "diffusion-supervised" else {"first": first}))
    got = enhance(noisy(2, 4000).noisy[:, -length:], method)
    assert got.shape == (2, length)
    assert got.isfinite().all()


@every_score
def test_a_score_method_alone_and_in_company(name):
    """To the last bit; one seed, one result, and another seed, another."""
    x, method = noisy(6, 3000).noisy, score_method(name)  # more than it takes at once
    gpu_batch_size = enhance(x, method, seed=3)
    assert gpu_batch_size.equal(enhance(x, method, seed=3))
    assert gpu_batch_size.reshape(2, 3, -1).equal(enhance(x.reshape(2, 3, -1), method, seed=3))
    for row, expected in zip(x, gpu_batch_size, strict=True):
        assert alike(enhance(row, method, seed=3), expected)
    assert not enhance(x[:1], method, seed=4).equal(gpu_batch_size[:1])


@every_score
def test_files_of_different_lengths_by_a_score_method(name):
    lengths = (3000, 900, 1, 3000, 3000, 900)
    rows, method = [x[:n] for x, n in zip(noisy(6, 3000).noisy, lengths)], score_method(name)
    got = enhance(rows, method, seed=range(6))
    assert [len(speech) for speech in got] == list(lengths)
    for i, (row, speech) in enumerate(zip(rows, got, strict=True)):
        assert alike(speech, enhance(row, method, seed=i))


@every_score
def test_files_side_by_side_by_a_score_method(name, request):
    x, method = noisy(3, 2000).noisy, score_method(name)
    assert method.parallel
    expected = enhance(x, replace(method, parallel=False))
    request.getfixturevalue("two_threads")
    assert alike(enhance(x, method), expected)


@every_score
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_silence_a_score_method_makes_silence(name, dtype):
    """And no other file feels it."""
    x, method = noisy(3, 3000).noisy.to(dtype), score_method(name)
    x[1] = 0
    got = enhance(x, method)
    assert got.isfinite().all()
    assert not got[1].any()
    assert alike(got[0], enhance(x[0], method), 1e-12 if dtype == torch.float64 else 1e-4)
    x[0, 500:2500] = 0  # amid a file, digital
    assert enhance(x, method).isfinite().all()


@every_score
def test_louder_in_louder_out_of_a_score_method(name):
    """To the last bit by a power of two: the mixture's level never comes to the network."""
    x, method = noisy(2, 3000).noisy, score_method(name)
    for gain in (2.0, 2.0**-10):
        assert enhance(gain * x, method).equal(gain * enhance(x, method))
    x = x.double()
    torch.testing.assert_close(enhance(1e-3 * x, method), 1e-3 * enhance(x, method))


@every_score
def test_a_score_method_on_a_long_file(name):
    """Pieces of 1.5 s, each at its own level; where one begins or ends no sample jumps 1.2 times as far as elsewhere.

    And two pieces of 2.5 s, of which one fades into the other.
    """
    x = noisy(1, 64000).noisy[0] * 100 ** torch.linspace(-1, 0, 64000)
    method = score_method(name, max_seconds=1.5)
    got, spans = enhance(x, method), _spans(64000, 1.5)
    assert got.shape == x.shape
    assert spans == [(8000 * i, 8000 * i + 24000) for i in range(6)]
    pieces = [enhance(x[a:b], method) for a, b in spans]
    assert alike(got[:8000], pieces[0][:8000])
    assert alike(got[56000:], pieces[5][16000:])
    for at in range(8000, 64000, 8000):
        jumps = got[at - 4000 : at + 4000].diff().abs()
        seam = torch.zeros(7999, dtype=torch.bool)
        seam[3980:4020] = True
        assert jumps[seam].max() < 1.2 * jumps[~seam].max()
    got = enhance(x, replace(method, max_seconds=2.5))
    a, b = enhance(x[:40000], replace(method, max_seconds=2.5)), enhance(x[24000:], replace(method, max_seconds=2.5))
    fade = torch.arange(1, 16001) / 16001
    expected = torch.cat([a[:24000], (1 - fade) * a[24000:] + fade * b[:16000], b[16000:]])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(got.abs().max()))


@every_score
def test_rounds_of_a_score_method_can_be_looked_at_late(name):
    """Each estimate is of its round; asked for or not, in inference mode or not, the last is what `enhance` gives."""
    x, method = noisy(2, 3000).noisy, score_method(name, batch_size=2)
    batch_size = [step.estimate() for step in method(x, generators=generators(0, 2))]
    steps = list(method(x, generators=generators(0, 2)))
    assert [step.iteration for step in steps] == list(range(method.iterations))
    for step, expected in zip(reversed(steps), reversed(batch_size), strict=True):
        assert step.estimate().equal(expected)
        assert step.estimate().shape == x.shape
        assert not step.estimate().requires_grad
    for a, b in pairwise(batch_size):
        assert not a.equal(b)
    assert enhance(x, method).equal(batch_size[-1])
    with torch.inference_mode():
        assert enhance(x, score_method(name, batch_size=2)).equal(batch_size[-1])
        *_, last = score_method(name)(x.clone(), generators=generators(0, 2))
        assert last.estimate().equal(batch_size[-1])


@every_score
def test_a_score_network_that_could_learn_leaves_no_gradient(name):
    """And stays as it was, like the signal: in double precision it is a copy that is used."""
    x, prior = noisy(2, 2000).noisy, drawn_score(conditional=name == "diffusion-supervised", dtype=torch.float32)
    expected, kept = enhance(x, score_method(name, prior)), x.clone()
    before = {key: p.clone() for key, p in prior.state_dict().items()}
    prior.requires_grad_(True)
    got = enhance(x, score_method(name, prior))
    assert got.equal(expected)
    assert not got.requires_grad
    assert enhance(x.double(), score_method(name, prior)).dtype == torch.float64
    assert x.equal(kept)
    assert all(p.grad is None for p in prior.parameters())
    assert all(p.dtype == torch.float32 and p.equal(before[key]) for key, p in prior.state_dict().items())


@every_score
def test_what_is_no_speech_to_a_score_method(name):
    with pytest.raises(AudioError, match="noisy: expected finite samples"):
        enhance(torch.full((100,), math.nan), score_method(name))


def test_a_network_told_the_mixture_where_none_is_and_the_other_way_round():
    x = noisy(1, 2000).noisy
    with pytest.raises(ValueError, match="expected no noisy spectrum beside x, got one"):
        enhance(x, score_method("diffusion-supervised", drawn_score()))
    with pytest.raises(ValueError, match="expected a noisy spectrum beside x, got none"):
        enhance(x, score_method("gibbs", drawn_score(conditional=True)))


# ------------------------------------------------------------- what a score method is


@pytest.mark.parametrize("name", ["reverse", "step", "gibbs"])
def test_a_score_method_is_the_loop_behind_the_compression(name):
    """Bases that are drawn at random and learned, at the mixture's level there."""
    x, prior = noisy(2, 3000).noisy.double(), drawn_score()
    method, g = score_method(name, prior), generators([1, 2], 2)
    transform = CompressedDomain.like(x, prior)
    X = transform(x)
    noise = nmf.init(X.abs().square(), 2, g)
    by_hand = list(em(X, method.estep(prior.denoise), noise, iterations=3, generators=g))
    steps = list(method(x, generators=generators([1, 2], 2)))
    for step, expected in zip(steps, by_hand, strict=True):
        torch.testing.assert_close(step.noise.variance, expected.noise.variance)
        torch.testing.assert_close(step.estimate(), transform.inverse(expected.estimate(), 3000))
    assert steps[0].noise.W.shape == (2, 257, 2)
    assert not steps[-1].noise.W.equal(steps[0].noise.W)


@pytest.mark.parametrize("known_noise", [False, True])
def test_a_score_method_after_an_nmf_keeps_the_bases_it_ends_with(known_noise):
    """It is that NMF's noise of the scaled mixture, whose activations are learned on; its luck is the method's own."""
    x, prior = noisy(2, 3000).noisy.double(), drawn_score()
    W = torch.rand(257, 5, generator=torch.Generator().manual_seed(2)).double() if known_noise else None
    first = speech_and_noise(W)
    method = score_method("first", prior, first=first)
    transform = CompressedDomain.like(x, prior)
    (begun,) = deque(first(x / transform.scale, generators=generators([1, 2], 2)), maxlen=1)
    steps = list(method(x, generators=generators([1, 2], 2)))
    torch.testing.assert_close(steps[0].noise.variance, begun.noise.variance)
    for step in steps:
        assert step.noise.W.equal(begun.noise.W)
        assert step.noise.W.shape == (2, 257, 5 if known_noise else 3)
    for a, b in pairwise(steps):
        assert not a.noise.H.equal(b.noise.H)
    if known_noise:
        torch.testing.assert_close(steps[-1].noise.W[0], W / W.sum(0))
    X = transform(x)
    estep = Linearised(method.estep(prior.denoise), prior.compression.secant_gain(X))
    by_hand = em(X, estep, begun.noise, iterations=3, generators=generators([1, 2], 2), bases=False)
    for step, expected in zip(steps, by_hand, strict=True):
        torch.testing.assert_close(step.noise.H, expected.noise.H)
        torch.testing.assert_close(step.estimate(), transform.inverse(expected.estimate(), 3000))


@pytest.mark.parametrize("schedule", [diffusion.OUVE(), diffusion.EDM()], ids=str)
def test_the_supervised_method_is_a_reverse_process_told_the_mixture(schedule):
    x, prior, g = noisy(2, 3000).noisy.double(), drawn_score(conditional=True), generators([1, 2], 2)
    transform = CompressedDomain.like(x, prior)
    X = transform(x)
    s = diffusion.start(X, schedule, 3, g)
    by_hand = diffusion.reverse(lambda s, sigma: prior.denoise(s, sigma, X), schedule, s, steps=4, generators=g)
    method = Supervised(prior, schedule, iterations=4, draws=3)
    for step, state in zip(method(x, generators=generators([1, 2], 2)), by_hand, strict=True):
        torch.testing.assert_close(step.estimate(), transform.inverse(state.position.mean(0), 3000))
        assert step.noise is None


class Sure(torch.nn.Module):
    """Knows the speech of a mixture."""

    stft, compression = STFT(512, 128), Compression()

    def __init__(self, m):
        super().__init__()
        self.register_buffer("S", torch.view_as_real(CompressedDomain.like(m.noisy, self)(m.clean)))

    def denoise(self, x, sigma, noisy=None):
        S = torch.view_as_complex(self.S)
        return Denoised(S.expand_as(x), torch.zeros_like(x.real))


@pytest.mark.parametrize("name", ["gibbs", "first"])
@pytest.mark.parametrize("snr", [-10.0, 20.0])
def test_a_prior_that_knows_the_speech_gives_it_back(name, snr):
    """Whatever the noise, and whatever is taken for it."""
    m = mix(
        speechlike(2, 3000).double(), torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).double(), snr
    )
    for step in score_method(name, Sure(m))(m.noisy, generators=generators(0, 2)):
        torch.testing.assert_close(step.estimate(), m.clean)


@pytest.mark.parametrize("schedule", [diffusion.OUVE(t_eps=1e-5), diffusion.OUVE(0.5, 0.1, 0.3, 1e-5)], ids=str)
def test_a_reverse_process_by_a_prior_that_knows_the_speech_ends_in_it(schedule):
    """-30 dB from it, with last steps so small that no noise is left."""
    m = mix(
        speechlike(2, 3000).double(), torch.randn(2, 3000, generator=torch.Generator().manual_seed(0)).double(), 0.0
    )
    got = enhance(m.noisy, Supervised(Sure(m), schedule, iterations=30, draws=2, batch_size=2))
    assert (metrics.si_sdr(m.clean, got) > 30).all()
    estep = partial(ReverseE, schedule=schedule, draws=2, unguided=9)
    got = enhance(m.noisy, ScoreEM(Sure(m), estep, iterations=2, batch_size=2))
    assert (metrics.si_sdr(m.clean, got) > 30).all()


def test_a_score_method_after_an_nmf_of_longer_windows():
    """White noise that it finds there is as strong here."""
    x = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)).double()
    prior, silent = drawn_score(), torch.full((513, 1), 1e-9)
    first = ISNMF(silent.double(), stft=STFT(1024, 256), rank=1, iterations=30)
    step = next(iter(score_method("first", prior, first=first)(x, generators=generators([1, 2], 2))))
    P = prior.stft(CompressedDomain.like(x, prior).scaled(x)).abs().square()
    assert step.noise.variance.shape == P.shape
    assert (step.noise.variance.mean((-2, -1)) / P.mean((-2, -1)) - 1).abs().max() < 0.1


def test_a_score_method_refuses_a_noise_model_of_another_transform():
    with pytest.raises(ValueError, match=r"first method with the prior's STFT\(n_fft=512.*got STFT\(n_fft=32"):
        ScoreEM(drawn_score(), GibbsE, first=ISNMF(torch.rand(17, 4), stft=STFT(32, 8)))


# ------------------------------------------------------------- what comes in, and what stays as it was


def elsewhere(look):
    """What a thread that starts now sees."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(look()))
    thread.start()
    thread.join()
    return seen[0]


def globals_now():
    numpy_state = np.random.get_state()[1].tobytes()  # noqa: NPY002  the global one is what is looked at
    return (
        torch.get_num_threads(),
        elsewhere(torch.get_num_threads),
        list(warnings.filters),
        torch.get_rng_state().numpy().tobytes(),
        numpy_state,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        elsewhere(torch.is_grad_enabled),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", METHODS)
def test_the_process_is_as_before(made, name):
    """Threads, warnings and random numbers of whoever calls, in every thread: made, run, and while it runs."""
    before, during = globals_now(), []
    make(name)
    assert globals_now() == before

    @dataclass(frozen=True)
    class Looking(Filter):
        """The method itself, and a look from another thread while it works."""

        def __call__(self, x, *, generators):
            during.append(elsewhere(torch.get_num_threads))
            yield from made[name](x, generators=generators)

    enhance(noisy(3, 4000).noisy, Looking((), parallel=True, batch_size=1))
    enhance(noisy(3, 4000).noisy, made[name])
    assert globals_now() == before
    assert set(during) == {2}


def test_two_at_once_do_not_take_each_others_threads(two_threads):
    method = VarianceEM(drawn_rvae(dtype=torch.float32), MCMC(RandomWalk(), steps=1), iterations=2, parallel=True)
    x = noisy(3, 5000).noisy
    expected = enhance(x, method)
    got = []
    both = [
        threading.Thread(target=lambda: got.append((enhance(x, method), torch.get_num_threads()))) for _ in range(4)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert all(speech.equal(expected) and threads == 2 for speech, threads in got)
    assert len(got) == 4


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_numpy_in_numpy_out(kind):
    x = noisy(2, 4000).noisy.numpy().astype(kind)
    got = enhance(x, make("spp-wiener"))
    assert isinstance(got, np.ndarray)
    assert got.dtype == kind
    assert np.array_equal(got, enhance(torch.from_numpy(x), make("spp-wiener")).numpy())
    first, second = enhance([x[0], x[1, :3000]], make("spp-wiener"))
    assert (first.dtype, first.shape, second.shape) == (kind, (4000,), (3000,))
    with pytest.raises(AudioError, match="expected floating-point samples"):
        enhance((1000 * x).astype(np.int16), make("spp-wiener"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_in_half_precision_out(method, dtype):
    """The computation is in single precision: none of the transforms knows any other."""
    x = noisy(2, 4000).noisy.to(dtype)
    got = enhance(x, method)
    assert got.dtype == dtype
    assert got.equal(enhance(x.float(), method).to(dtype))


@pytest.mark.parametrize("shape", [(48000, 2), (48000, 1), (4000, 6)])
def test_a_file_as_soundfile_gives_it(shape):
    with pytest.raises(AudioError, match=rf"got {shape[0]} of {shape[1]} samples; .* is to be transposed"):
        enhance(torch.randn(shape), make("spp-wiener"))


@pytest.mark.parametrize("offset", [0.03, -0.5])
@pytest.mark.parametrize("name", ["spp-wiener", "nmf", "bsse", "flow-tweedie"])
def test_an_offset_is_taken_away_and_put_back(name, offset):
    x = noisy(1, 8000).noisy.double()
    x = x - x.mean()
    torch.testing.assert_close(enhance(x + offset, make(name)), enhance(x, make(name)) + offset, rtol=0, atol=1e-6)


def test_a_mean_that_is_no_offset_stays():
    """A little is there in every recording, and a short one's mean is sound: both come to the method as they are."""
    level = Level((), max_seconds=math.inf)
    slightly = torch.cat([torch.full((4000,), 0.1), torch.full((4000,), -0.09)])
    for x in (slightly, torch.full((7999,), 0.3)):
        torch.testing.assert_close(enhance(x, level), x.mean().expand_as(x))


# ------------------------------------------------------------- what a method knows of each file


def test_the_oracle_is_cut_with_the_batch(monkeypatch):
    """By files, of one length or of several pieces; to the last bit what it is of each file by itself."""
    m = noisy(4, 24000, snr=0.0)
    oracle = OracleWiener.from_mixture(m)
    monkeypatch.setattr("sepriors.methods.GPU_BATCH_SECONDS", 3.0)  # two files of 1.5 s at once
    got = enhance(m.noisy, oracle)
    for i in range(4):
        assert got[i].equal(enhance(m.noisy[i], OracleWiener(m.clean[i], m.noise[i])))
    monkeypatch.setattr("sepriors.methods.MAX_SECONDS", 1.1)
    in_pieces = enhance(m.noisy, oracle)
    assert not in_pieces.equal(got)
    assert (metrics.si_sdr(got, in_pieces) > 20).all()
    with pytest.raises(ValueError, match=r"of each of 2 files, got shapes \(4, 24000\), \(4, 24000\)"):
        enhance(m.noisy[:2], oracle)


def test_a_prior_is_copied_only_where_it_must_be():
    """300 MB each, of some, for every part of a batch."""
    prior = drawn_vae(dtype=torch.float32)
    seen = []

    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, 100, dtype=dtype)
        seen.append(methods._like(prior, x))
        assert {p.dtype for p in seen[-1].parameters()} == {dtype}
    assert seen[0] is prior
    assert {p.dtype for p in prior.parameters()} == {torch.float32}
    with torch.inference_mode():
        made_there = drawn_vae(dtype=torch.float32)
    assert methods._like(made_there, torch.zeros(1)) is not made_there


def test_a_batch_is_bounded_by_seconds(monkeypatch):
    """However many files, and of whatever length, a method is given no more at once, and no longer pieces."""
    monkeypatch.setattr("sepriors.methods.GPU_BATCH_SECONDS", 2.0)
    monkeypatch.setattr("sepriors.methods.MAX_SECONDS", 1.5)
    sizes = []

    @dataclass(frozen=True)
    class Watched:
        iterations: int = 1

        def __call__(self, x, *, generators):
            sizes.append(x.shape)
            yield Step(0, None, lambda: x.clone())

    x = noisy(5, 16000).noisy
    torch.testing.assert_close(enhance([*x, noisy(1, 60000).noisy[0]], Watched())[:5], list(x))
    assert all(rows * samples <= 32000 and samples <= 24000 for rows, samples in sizes)
    assert {rows for rows, samples in sizes if samples == 16000} == {1, 2}
