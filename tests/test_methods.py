"""Every class of method keeps the same promises, and every method of the list makes noisy speech less so."""

import math
import os
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import sympy  # noqa: F401  torch imports it with its first gradient, and it sets a filter for warnings
import torch
from conftest import alike, drawn_flow, drawn_rvae, drawn_score, drawn_vae, speechlike

from sepriors import METHODS, STFT, OracleWiener, SPPWiener, enhance, make, methods, metrics, mix, priors, weights
from sepriors.inference.em import GibbsE, ReverseE
from sepriors.inference.flows import denoise, white
from sepriors.inference.latent import MCMC, PointEstimate, Variational
from sepriors.inference.mcmc import MALA, Langevin, RandomWalk
from sepriors.inference.noise_models import Begun, FreeNMF
from sepriors.lab.corpora import bench_set, open_corpora
from sepriors.methods import FlowLangevin, FlowMAP, FlowTweedie, MethodError, Separator, diffusion_em, variance_em
from sepriors.precision import matched
from sepriors.priors import BSSE
from sepriors.protocols import Method, Running, Step
from sepriors.running import _spans
from sepriors.signal.audio import AudioError
from sepriors.signal.rng import generators
from sepriors.signal.spp import white_variance

DATA = os.environ.get("SEPRIORS_DATA")
SMALL = STFT(64, 32)


def noisy(batch=3, length=800, snr=5.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return mix(speechlike(batch, length, seed), torch.randn(batch, length, generator=g), snr)


def bases(bins, rank, seed=1):
    return torch.rand(bins, rank, generator=torch.Generator().manual_seed(seed)) ** 4 + 1e-6


def drawn_bsse():
    made, g = BSSE("spectrum", None, width=8, hidden=6), torch.Generator().manual_seed(0)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return made.requires_grad_(False).eval()


NMF = methods.nmf_em(bases(33, 4), stft=SMALL, rank=2, iterations=3)


def scored(estep, iterations, noise, **choices):
    return diffusion_em(drawn_score(stft=SMALL, dtype=torch.float32), estep, iterations, noise, **choices)


def latent_em(prior, latent):
    return variance_em(prior(dtype=torch.float32), latent, iterations=2)


def flow(cls, **choices):
    """With an untrained flow, and few rounds; no walk is stable where a flow bends more."""
    few = {"iterations": 3} | ({"chains": 2, "iterations": 2, "steps": 1} if cls is FlowLangevin else {})
    kind = {} if cls is FlowMAP else {"conditional": True, "away": 0.3}
    prior = drawn_flow(dtype=torch.float32, **kind)
    return cls(prior, **few | choices)


# a method of each class, and of each use of a class that has code of its own, with a network drawn at random
TINY = {
    "spp": lambda: SPPWiener(SMALL),
    "nmf": lambda: NMF,
    "walk": lambda: latent_em(drawn_vae, MCMC(RandomWalk(0.1), 1, final_steps=2)),
    "mala": lambda: latent_em(drawn_vae, MCMC(MALA(0.01), 1, chains=2, perturb=0.01, joint=True, final_steps=2)),
    "averaged": lambda: latent_em(drawn_rvae, MCMC(Langevin(0.02, averaged=True), 1, final_steps=2, final_times=2)),
    "mode": lambda: latent_em(drawn_vae, PointEstimate(2, 0.05)),
    "recurrent": lambda: latent_em(drawn_rvae, Variational(1, final_draws=2)),
    "restart": lambda: scored(partial(ReverseE, steps=3, draws=2), 2, FreeNMF(2)),
    "goes on": lambda: scored(partial(ReverseE, restart=False, steps=6, draws=2), 3, FreeNMF(2)),
    "gibbs": lambda: scored(partial(GibbsE, draws=2, burn=1), 3, Begun(NMF)),
    "conditional": lambda: methods.ConditionalDiffusion(
        drawn_score(stft=SMALL, conditional=True, dtype=torch.float32), iterations=3, draws=2
    ),
    "separator": lambda: Separator(drawn_bsse()),
    "map": lambda: flow(FlowMAP),
    "tweedie": lambda: flow(FlowTweedie),
    "langevin": lambda: flow(FlowLangevin),
}
tiny = cache(lambda name: TINY[name]())
every_class = pytest.mark.parametrize("name", TINY)
every_flow = pytest.mark.parametrize("cls", [FlowMAP, FlowTweedie, FlowLangevin])


def for_company(name, x):
    """A sampler that accepts or rejects has signals in double precision, where rounding decides nothing."""
    return x.double() if name in ("walk", "mala") else x


# ------------------------------------------------------------- what every class promises


@every_class
def test_length_dtype_and_device_come_from_the_signal(name):
    """And the signal is not written to."""
    method = tiny(name)
    for length, dtype in ((1, torch.float64), (1, torch.float32), (2, torch.float32), (81, torch.float64)):
        x = noisy(2).noisy[:, 300 : 300 + length].to(dtype)
        kept, got = x.clone(), enhance(x, method)
        assert x.equal(kept)
        assert (got.shape, got.dtype, got.device) == (x.shape, dtype, x.device)
        assert got.isfinite().all()
        assert not got.requires_grad
        assert not got.is_inference()


@every_class
def test_alone_and_in_company(name):
    """The same call gives the same bits; whatever shares a batch with what, utterances differ by rounding at most."""
    method, lengths = tiny(name), (800, 500, 1, 800, 800, 500)
    rows = [x[:n] for x, n in zip(for_company(name, noisy(6).noisy), lengths)]
    got = enhance(rows, method, seed=range(6))
    assert all(a.equal(b) for a, b in zip(got, enhance(rows, method, seed=range(6)), strict=True))
    for i in (1, 2, 4):
        assert alike(got[i], enhance(rows[i], method, seed=i))
    x = torch.stack(rows[3:5])
    assert alike(enhance(x, method, seed=[3, 4]), torch.stack(got[3:5]))
    assert enhance(x[:, None], method)[:, 0].equal(enhance(x, method))
    draws_nothing = name in ("spp", "separator", "map", "tweedie")
    assert enhance(x, method, seed=9).equal(enhance(x, method)) == draws_nothing


@every_class
def test_silence_stays_silent_and_all_stays_finite(name):
    """And spoils no other; a click, a clipped and a faint signal; louder in, louder out."""
    method, flows = tiny(name), name in ("map", "tweedie", "langevin")
    x = for_company(name, noisy(3).noisy)
    x[1] = 0
    got = enhance(x, method)
    assert not got[1].any()
    assert alike(got[2], enhance(x[2], method))
    x = noisy(1, 3000).noisy
    x[:, 800:2400] = 0  # digital silence amid it
    got = enhance(x, method)
    assert got.any()
    assert got[:, 1400:1800].abs().max() <= 1e-3 * flows  # they see the noise around it, and no frames
    x = torch.sin(torch.arange(1000) * 0.1) * torch.tensor([[0.0], [100.0], [1e-30]])
    x[0, 500] = 1
    assert enhance(x.clamp(-1, 1), method).isfinite().all()
    x = noisy(2).noisy.double()
    for gain in (1e-3, 10.0):
        assert alike(enhance(gain * x, method), gain * enhance(x, method))


@every_class
def test_rounds_can_be_looked_at_late(name):
    """Each estimate is of its round, whenever it is asked for; the last is what `enhance` gives."""
    x, method = for_company(name, noisy(2).noisy), tiny(name)
    early = [step.estimate() for step in method(x, generators=generators(0, 2))]
    steps = list(method(x, generators=generators(0, 2)))
    assert [step.iteration for step in steps] == list(range(method.iterations))
    for step, expected in zip(steps, early, strict=True):
        assert step.estimate().equal(expected)
        assert step.estimate().shape == x.shape
    assert len(early) == 1 or not early[0].equal(early[-1])
    assert alike(enhance(x, method), early[-1])


def network(method):
    estep = getattr(method, "estep", method)
    prior = getattr(estep, "prior", None) or getattr(getattr(estep, "denoise", None), "__self__", None)
    return prior if isinstance(prior, torch.nn.Module) else torch.nn.Identity()


def elsewhere(look):
    """What a thread that starts now sees."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(look()))
    thread.start()
    thread.join()
    return seen[0]


def globals_now():
    return (
        torch.get_num_threads(),
        elsewhere(torch.get_num_threads),
        list(warnings.filters),
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # noqa: NPY002  the global one is what is looked at
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        elsewhere(torch.is_grad_enabled),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
@every_class
def test_the_process_and_the_network_are_as_before(name):
    """Threads, warnings, random numbers, in every thread, and while it runs; a network that could learn has learned
    nothing; one made in inference mode is as good.
    """
    x, method = noisy(2).noisy, tiny(name)
    with torch.inference_mode():
        made_there = TINY[name]()
    before, during, expected = globals_now(), [], enhance(x, method)

    @dataclass(frozen=True)
    class Looking(Filter):
        """The method itself, and a look from another thread while it works."""

        def __call__(self, x, *, generators):
            during.append(elsewhere(torch.get_num_threads))
            yield from method(x, generators=generators)

    enhance(x, Looking((), running=Running(batch_size=1, parallel=True)))
    with torch.inference_mode():
        assert alike(enhance(x, made_there), expected)
    assert globals_now() == before
    assert set(during) == {2}
    net = network(method)
    kept = {key: p.clone() for key, p in net.state_dict().items()}
    net.requires_grad_(True)
    try:
        got = enhance(x, method)
        enhance(x.double(), method)
    finally:
        net.requires_grad_(False)
    assert alike(got, expected)
    assert not got.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert all(p.dtype == kept[key].dtype and p.equal(kept[key]) for key, p in net.state_dict().items())


# ------------------------------------------------------------- the methods of the list, with their trained weights

ROUNDS = {"udiffse": 1, "udiffse-plus": 5, "depse": 8, "udiffse-fast": 6, "flow-map": 30, "diffusion-supervised": 6}
STEPS = {"udiffse": 10, "udiffse-plus": 10, "depse": 8}  # of whole reverse processes, but short ones


def short(name):
    """The method with few rounds, few draws and short chains: what holds after some of them holds after 100."""
    method = make(name)
    changes = {"iterations": min(method.iterations, ROUNDS.get(name, 10))}
    estep = getattr(method, "estep", None)
    if isinstance(latent := getattr(estep, "latent", None), MCMC):
        few = {"steps": min(latent.steps, 2), "final_steps": min(latent.final_steps, 4)}
        changes["estep"] = estep._replace(latent=latent._replace(**few, final_keep=1, final_times=1))
    if name in STEPS:
        changes["estep"] = estep._replace(steps=STEPS[name], draws=1)
    changes |= {name: 1 for name in ("draws", "chains") if hasattr(method, name)}
    return replace(method, **changes)


@pytest.fixture(scope="module")
def suits():
    """Mixtures at 0 dB that suit a method: white noise, but for `use-ddp`, which knows noise from recordings.

    So do the bases of `nmf-supervised`, which gains in white noise on the average of some files only.
    """
    corpora = open_corpora(DATA or "synthetic")
    white, some = (bench_set(corpora, "white", files=n, seconds=1.5 * k, snrs=[0.0])[0] for n, k in ((1, 1), (6, 2)))
    real = bench_set(corpora, "real", files=6, seconds=3.0, snrs=[0.0])[0]
    return defaultdict(lambda: white, {"use-ddp": real, "nmf-supervised": some})


@pytest.mark.corpora
@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_the_list_raises_the_ratio_of_speech_to_noise(suits, name):
    """And has its cards, keeps the length, makes no click, and is no better than the oracle."""
    before = globals_now()
    method, m = short(name), suits[name]
    assert METHODS[name].about
    assert all(weights.load(card).tensors for card in METHODS[name].cards)
    speech = enhance(m.noisy, method)
    assert globals_now() == before
    assert speech.shape == m.noisy.shape
    assert speech.abs().max() < 1.5 * m.noisy.abs().max()
    ratio, oracle = (metrics.si_sdr(m.clean, s) for s in (speech, enhance(m.noisy, OracleWiener.from_mixture(m))))
    assert (ratio - metrics.si_sdr(m.clean, m.noisy)).mean() > (0.5 if name == "use-ddp" else 1)
    assert (ratio < oracle).all()
    if name == "use-ddp":  # it is the prior that raises it, not the codec that it is made of
        assert (ratio - metrics.si_sdr(m.clean, enhance(m.noisy, Separator(priors.load("codec"))))).mean() > 0.5


def test_a_method_by_its_name():
    x = noisy().noisy
    assert enhance(x, "nmf").equal(enhance(x, make("nmf")))
    assert make("nmf", iterations=7).iterations == 7
    with pytest.raises(TypeError, match="rank"):
        make("spp-wiener", rank=3)
    with pytest.raises(AttributeError):
        make("nmf").iterations = 3
    with pytest.raises(MethodError, match="unknown method 'nfm'; did you mean nmf"):
        enhance(x, "nfm")
    with pytest.raises(MethodError, match="unknown method '%'; did you mean spp-wiener or nmf-supervised or nmf"):
        make("%")


# ------------------------------------------------------------- what comes in and goes out


@pytest.mark.parametrize(("x", "message"), [
    (torch.zeros(0), "noisy: expected at least one sample"),
    (torch.zeros(100, dtype=torch.int16), "noisy: expected floating-point samples"),
    (np.zeros(100, dtype=np.int16), "noisy: expected floating-point samples"),
    (torch.full((2, 100), math.nan), "noisy: expected finite samples"),
    ([0.0], "noisy, 1 of 1: expected a torch.Tensor"),
    ([torch.zeros(5), torch.zeros(0)], "noisy, 2 of 2: expected at least one sample"),
    ([torch.zeros(5), torch.zeros(1, 6)], "expected utterances of shape .* in a list, got .1, 6."),
    (torch.zeros(48000, 2), "got 48000 of 2 samples; .* is to be transposed"),
], ids=range(8))  # fmt: skip
def test_what_is_no_speech(x, message):
    with pytest.raises(AudioError, match=message):
        enhance(x, SPPWiener())


def test_seeds_and_no_utterances():
    assert enhance([], SPPWiener()) == []
    for x in ([torch.ones(5), torch.ones(6)], torch.ones(2, 5)):
        with pytest.raises(ValueError, match="expected 2 seeds"):
            enhance(x, SPPWiener(), seed=[1])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(kind):
    x = noisy(2).noisy.numpy().astype(kind)
    kept, got = x.copy(), enhance(x, SPPWiener())
    assert isinstance(got, np.ndarray)
    assert got.dtype == kind
    assert np.array_equal(x, kept)
    assert np.array_equal(got, enhance(torch.from_numpy(x), SPPWiener()).numpy())
    first, second = enhance([x[0], x[1, :300]], SPPWiener())
    assert (first.dtype, first.shape, second.shape) == (kind, (800,), (300,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_in_half_precision_out(dtype):
    """The computation is in single precision: none of the transforms knows any other."""
    for name in ("nmf", "mode", "gibbs"):
        x = noisy(2).noisy.to(dtype)
        assert enhance(x, tiny(name)).equal(enhance(x.float(), tiny(name)).to(dtype))


@dataclass(frozen=True)
class Filter(Method):
    """A fixed filter, linear and short: what becomes of it in segments is known."""

    taps: tuple[float, ...]
    running: Running = Running(batch_size=2, max_seconds=2.0)  # noqa: RUF009
    iterations: int = 1

    def __call__(self, x, *, generators):
        taps = torch.tensor(self.taps).to(x)[None, None]
        y = torch.nn.functional.conv1d(x[:, None], taps, padding=len(self.taps) // 2)[:, 0]
        yield Step(0, None, lambda: y)


@dataclass(frozen=True)
class Level(Filter):
    """Each segment becomes a constant, its mean: no two of them agree."""

    def __call__(self, x, *, generators):
        yield Step(0, None, lambda: x.mean(-1, keepdim=True).expand_as(x).clone())


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_another_sample_rate_is_made_that_of_the_methods_and_back(rate):
    """Two seconds of a tone by a method that halves it; lengths stay, an offset too, without a click at either end."""
    t = torch.arange(2 * rate + 1, dtype=torch.float64) / rate
    x = 0.1 * torch.sin(2 * math.pi * 440 * t)
    for offset in (0.0, 0.5):
        got = enhance(x + offset, Filter((0.5,)), sample_rate=rate)
        assert got.shape == x.shape
        torch.testing.assert_close(got[100:-100], (offset + 0.5 * x)[100:-100], rtol=0, atol=3e-4)
        assert (got - offset).abs().max() < 0.06
    assert [len(s) for s in enhance([x[:1], x[:1234]], Filter((0.5,)), sample_rate=rate)] == [1, 1234]


def test_an_offset_is_taken_away_and_put_back():
    """A mean that is none stays: a little is there in every recording, and a short one's mean is sound."""
    x = noisy(1, 8000).noisy.double()
    x = x - x.mean()
    for name in ("spp", "nmf", "separator", "tweedie"):
        torch.testing.assert_close(enhance(x - 0.5, tiny(name)), enhance(x, tiny(name)) - 0.5, rtol=0, atol=1e-6)
    slightly = torch.cat([torch.full((4000,), 0.1), torch.full((4000,), -0.09)])
    for x in (slightly, torch.full((7999,), 0.3)):
        torch.testing.assert_close(enhance(x, Level(())), x.mean().expand_as(x))


# ------------------------------------------------------------- long files, and batches side by side


@pytest.mark.parametrize("max_seconds", [1.5, 30.0])
def test_segments_of_a_long_file(max_seconds):
    """They cover it, are as long as may be, share a second or more, and are no more than that takes."""
    size = round(16000 * max_seconds)
    for length in [1, size, size + 1, 2 * size - 16000, 2 * size - 15999, 10 * size, *range(size, 4 * size, 9973)]:
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


@pytest.mark.parametrize("seconds", [2.001, 3.0, 5.3])
def test_segments_are_faded_over(seconds):
    """What is linear makes the whole; what disagrees goes over in a second, however far two segments overlap."""
    length = round(16000 * seconds)
    x = torch.randn(2, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(enhance(x, Filter((0.3,))), 0.3 * x)
    smooth = Filter((0.25, 0.5, 0.25))  # at a segment's ends a sample sees a zero in place of its neighbour, unheard
    whole = enhance(x, replace(smooth, running=Running(max_seconds=math.inf)))
    torch.testing.assert_close(enhance(x, smooth), whole, rtol=0, atol=1.01 * 0.25 * float(x.abs().max()) / 16000)
    x = torch.linspace(0, 1, length, dtype=torch.float64) ** 2 - 1 / 3
    spans, y = _spans(length, 2.0), enhance(x, Level(()))
    means = torch.stack([x[a:b].mean() for a, b in spans])
    for i, ((a, b), mean) in enumerate(zip(spans, means)):
        alone = slice(spans[i - 1][1] if i else a, spans[i + 1][0] if i + 1 < len(spans) else b)
        torch.testing.assert_close(y[alone], mean.expand_as(y[alone]), rtol=1e-13, atol=1e-15)
    assert y.diff().min() > -1e-12
    assert y.diff().max() < 1.01 * (means[-1] - means[0]) / 16000


def test_a_batch_is_bounded_by_seconds(monkeypatch):
    """However many files, and of whatever length, a method is given no more at once, and no longer segments."""
    monkeypatch.setattr("sepriors.running.GPU_BATCH_SECONDS", 2.0)
    sizes = []

    @dataclass(frozen=True)
    class Watched(Filter):
        running: Running = Running(max_seconds=1.5)  # noqa: RUF009

        def __call__(self, x, *, generators):
            sizes.append(x.shape)
            yield from super().__call__(x, generators=generators)

    x = noisy(5, 16000).noisy
    torch.testing.assert_close(enhance([*x, noisy(1, 60000).noisy[0]], Watched((1.0,)))[:5], list(x))
    assert all(rows * samples <= 32000 and samples <= 24000 for rows, samples in sizes)
    assert {rows for rows, samples in sizes if samples == 16000} == {1, 2}


@pytest.mark.parametrize("name", ["walk", "recurrent", "gibbs", "separator"])
def test_batches_side_by_side_change_nothing(name, request):
    """Each has one thread; the same call gives the same bits, alone and in company, of several callers at once."""
    x = for_company(name, noisy(4).noisy)
    rows = [*x, x[1, :600], x[2, :700]]
    expected = enhance(rows, replace(tiny(name), running=Running(batch_size=1)))
    request.getfixturevalue("two_threads")
    method, got = replace(tiny(name), running=Running(batch_size=2, parallel=True)), []
    call = lambda: got.append((enhance(rows, method), torch.get_num_threads()))  # noqa: E731
    callers = [threading.Thread(target=call) for _ in range(3)]
    [caller.start() for caller in callers]
    [caller.join() for caller in callers]
    assert len(got) == 3
    for speech, threads in got:
        assert threads == 2
        assert all(a.equal(b) and alike(a, c) for a, b, c in zip(speech, got[0][0], expected, strict=True))
    assert alike(enhance(x[0], method), expected[0])
    assert enhance([], method) == []


@pytest.mark.usefixtures("two_threads")
def test_what_fails_side_by_side_fails():
    @dataclass(frozen=True)
    class Failing(Filter):
        def __call__(self, x, *, generators):
            raise RuntimeError("as it must")

    with pytest.raises(RuntimeError, match="as it must"):
        enhance(torch.zeros(6, 100), Failing((), running=Running(batch_size=1, parallel=True)))


def test_a_prior_is_copied_only_where_it_must_be():
    """300 MB each, of some, for every batch."""
    prior, x = drawn_vae(dtype=torch.float32), torch.zeros(1)
    assert matched(prior, x) is prior
    assert matched(prior.encode, x).__self__ is prior
    for copied in (matched(prior, x.double()), matched(prior.encode, x.double()).__self__):
        assert {p.dtype for p in copied.parameters()} == {torch.float64}
    assert {p.dtype for p in prior.parameters()} == {torch.float32}
    with torch.inference_mode():
        made_there = drawn_vae(dtype=torch.float32)
    assert matched(made_there, x) is not made_there


# ------------------------------------------------------------- Wiener filters


def test_the_oracle_of_clean_speech_and_of_noise(monkeypatch):
    """And what it knows is cut with the batch: by files, and by segments of them."""
    m, nothing = noisy(4, 24000, snr=0.0), torch.zeros(4, 24000)
    torch.testing.assert_close(enhance(m.noisy, OracleWiener(m.noisy, nothing)), m.noisy, atol=1e-6, rtol=0)
    assert not enhance(m.noisy, OracleWiener(nothing, m.noisy)).any()
    s, n = OracleWiener.from_mixture(m), OracleWiener(m.noise, m.clean)
    got = enhance(m.noisy, s)
    torch.testing.assert_close(got + enhance(m.noisy, n), m.noisy, atol=1e-6, rtol=0)
    assert (metrics.si_sdr(m.clean, got) > metrics.si_sdr(m.clean, m.noisy) + 6).all()
    monkeypatch.setattr("sepriors.running.GPU_BATCH_SECONDS", 3.0)  # two files of 1.5 s at once
    for i in range(4):
        assert alike(enhance(m.noisy, s)[i], enhance(m.noisy[i], OracleWiener(m.clean[i], m.noise[i])))
    monkeypatch.setattr(OracleWiener, "running", Running(max_seconds=1.1))
    in_segments = enhance(m.noisy, s)
    assert not in_segments.equal(got)
    assert (metrics.si_sdr(got, in_segments) > 20).all()
    with pytest.raises(ValueError, match=r"of each of 2 files, got shapes \(4, 24000\), \(4, 24000\)"):
        enhance(m.noisy[:2], s)


def test_the_bases_that_a_method_is_given():
    """Noise bases are kept, and must be of the method's transform."""
    W, x = bases(33, 3), noisy(2).noisy
    known, wrong = (methods.nmf_em(bases(33, 4), noise, SMALL, iterations=3) for noise in (W, bases(17, 3)))
    for step in known(x, generators=generators(0, 2)):
        torch.testing.assert_close(step.noise.W, (W / W.sum(0)).expand(2, -1, -1))
    *_, learned = replace(known, noise=FreeNMF(5))(x, generators=generators(0, 2))
    assert learned.noise.W.shape == (2, 33, 5)
    with pytest.raises(ValueError, match="power has F=33 but W has F=17; were they made with the same STFT"):
        enhance(x, wrong)


# ------------------------------------------------------------- flows, in white noise


class Hiss(torch.nn.Module):
    """White signals in white noise: with this prior all methods are Wiener's."""

    window, rms, clean = 80, 0.03, math.inf

    def log_prob(self, s, noise=None):
        v = torch.full_like(s[:, 0], self.rms**2) + (0 if noise is None else noise.square())
        return -0.5 * (s.square().sum(-1) / v + s.shape[-1] * (2 * math.pi * v).log())


@pytest.mark.parametrize("length", [1000, 79])
def test_with_a_gaussian_prior_a_flow_method_is_wieners(length):
    """White mixtures at two levels: the mode, the mean, and the mean of many chains, within its error."""
    x = torch.tensor([[1e-3], [3.0]]) * torch.randn(2, length, generator=torch.Generator().manual_seed(9)).double()
    power = x.square().mean(-1)
    variance = torch.tensor([0.2, 0.7]) * power
    gain = (1 - variance / power)[:, None]
    torch.testing.assert_close(enhance(x, FlowTweedie(Hiss(), variance)), gain * x)
    climbed = enhance(x, FlowMAP(Hiss(), variance, iterations=800))
    assert ((climbed - gain * x).square().mean(-1) < 1e-6 * power).all()
    drawn = enhance(x, FlowLangevin(Hiss(), variance, chains=20, iterations=60))
    ratio = (drawn - gain * x).square().mean(-1) / (variance * gain[:, 0] / 20)
    assert ((ratio - 1).abs() < 0.1 + 4 * (2 / length) ** 0.5).all()


@every_flow
def test_a_variance_for_each_file(cls):
    """Given or estimated, it goes with its file, wherever that comes to lie."""
    x = noisy(6).noisy
    given = flow(cls, variance=white_variance(x))
    torch.testing.assert_close(enhance(x, given), enhance(x, flow(cls)))
    assert not enhance(x, replace(given, variance=2 * given.variance)).equal(enhance(x, flow(cls)))
    rows = [row[:n] for row, n in zip(x, (800, 500, 800, 500, 800, 700))]
    got = enhance(rows, given, seed=range(6))
    for i in (0, 3, 4):
        alone = replace(given, variance=given.variance[i : i + 1])
        assert alike(got[i], enhance(rows[i], alone, seed=i))


@pytest.mark.parametrize("variance", [[0.0, 1.0], [math.nan, 1.0], [1.0], [1.0] * 3, [[1.0], [1.0]], 1.0], ids=str)
@every_flow
def test_a_variance_that_is_none(cls, variance):
    with pytest.raises(ValueError, match="expected a positive variance of the noise for each of 2 files, got"):
        enhance(noisy(2).noisy, flow(cls, variance=torch.tensor(variance)))


def test_a_mean_over_where_windows_begin():
    x, method = noisy(2).noisy, flow(FlowTweedie, iterations=4)
    made = white(x, method.prior, None)
    means = [denoise(method.prior, made.x, made.variance, offset=offset) for offset in (0, 20, 40, 60)]
    for i, step in enumerate(method(x, generators=generators(0, 2)), start=1):
        torch.testing.assert_close(step.estimate(), made.back(sum(means[:i]) / i))
    assert not means[0].allclose(means[1])


def test_where_a_climb_stops_and_the_weight_of_the_paper():
    """1 / (2 σ²) where speech has the prior's power: what the posterior has for σ², whatever the mixture's level."""
    x, prior, seen = torch.tensor([[1e-3], [3.0]]) * noisy(2, 4000).noisy.double(), Hiss(), []
    stop = lambda target, now: seen.append(target) or torch.ones_like(now.logp, dtype=torch.bool)  # noqa: E731
    for weight in FlowMAP.PAPER.values():
        assert enhance(x, FlowMAP(prior, weight=weight, stop=stop)).allclose(x)
        torch.testing.assert_close(seen[-1].variance, torch.full((2,), 0.5 / weight).double())
        speech = seen[-1].x.square().mean(-1) - seen[-1].variance
        torch.testing.assert_close(speech, torch.full((2,), prior.rms**2).double(), rtol=1e-2, atol=0)
    assert len(seen) == len(FlowMAP.PAPER)
    prior.clean = -math.inf  # all is as likely as clean speech
    assert len(list(FlowMAP(prior)(x, generators=generators(0, 2)))) == 1
    never = FlowMAP(prior, iterations=7, stop=lambda target, now: torch.zeros(2, dtype=torch.bool))
    assert len(list(never(x, generators=generators(0, 2)))) == 7


def test_a_climb_that_knows_the_noise():
    m = noisy(3)
    method = FlowMAP.oracle(drawn_flow(dtype=torch.float32), iterations=3)
    assert method(m).variance.equal(m.noise.square().mean(-1))
    got = enhance(m.noisy, method(m))
    assert alike(got[1], enhance(m.noisy[1], method(m._replace(noise=m.noise[1:2]))))
