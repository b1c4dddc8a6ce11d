"""Objective measures of an enhanced signal; a measure that cannot be had is NaN with a reason, never a guess.

PESQ has three scales that must not stand side by side: wide-band MOS-LQO (`pesq_wb`, ITU-T P.862.2, what the
VoiceBank-DEMAND literature prints), narrow-band MOS-LQO (`pesq_nb`, P.862.1) and the raw narrow-band score (`pesq_raw`,
P.862, -0.5 to 4.5, what most papers on variational priors print).
"""

import difflib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from sepriors.signal.audio import AudioError, check

# Clean speech and estimate (N,), not silent, as long as each other, and their rate -> a value; MetricError where there
# is none. `_of_tensors` makes one of a function of tensors; what is not finite becomes NaN with a reason.
Metric = Callable[[np.ndarray, np.ndarray, int], float]
CLEAN_FREE = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovr")  # these never look at the clean speech
PESQ_SECONDS = 20  # the ITU's code crashes past 50 utterances; each, and each gap between them, has 0.2 s at least
STOI_SECONDS = 0.4  # 30 frames
EPS = torch.finfo(torch.float64).eps  # what Loizou's programs add to each sample and to what they divide by


class MetricError(ValueError):
    """A measure that is not defined for these signals."""


def si_sdr(clean: torch.Tensor, estimate: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
    r"""Scale-invariant signal-to-distortion ratio, dB (Le Roux et al., 2019, eq. 3).

    $10 \log_{10} \|\alpha s\|^2 / \|\alpha s - \hat s\|^2$ with $\alpha = \hat s^\top s / \|s\|^2$.
    clean and estimate (..., N) -> (...), of float32 at least: sums of float16 overflow. A `floor`, energy that is added
    wherever energies are divided, makes of it a loss with a gradient in silence.

    >>> s, n = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> print(f"{si_sdr(s, 0.5 * s + 0.05 * n):.3f} dB")
    20.000 dB
    """
    dtype = torch.promote_types(torch.promote_types(clean.dtype, estimate.dtype), torch.float32)
    clean, estimate = clean.to(dtype), estimate.to(dtype)
    scale = (estimate * clean).sum(-1, keepdim=True) / (clean.square().sum(-1, keepdim=True) + floor)
    target = scale * clean
    return 10 * ((target.square().sum(-1) + floor) / ((target - estimate).square().sum(-1) + floor)).log10()


# Centres and bandwidths of 25 critical bands, Hz (Loizou, 2013, appendix; Quackenbush et al., 1988)
_CENTRES = (50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72,
            1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63)  # fmt: skip
_WIDTHS = (70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823,
           168.154, 183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136)  # fmt: skip


def _sizes(sample_rate: int) -> tuple[int, int, int]:
    """Samples of a frame of 30 ms and of a hop, and the length of its Fourier transform; MATLAB rounds halves up."""
    size = math.floor(0.03 * sample_rate + 0.5)
    return size, size // 4, 2 ** math.ceil(math.log2(2 * size))


@lru_cache
def _critical_bands(sample_rate: int) -> torch.Tensor:
    """Gaussian filters (25, bins), each of the same area, cut off at -30 dB."""
    if sample_rate < 8000:
        raise MetricError(f"expected 8000 Hz or more, the critical bands reach 3.8 kHz, got {sample_rate}")
    bins = _sizes(sample_rate)[2] // 2
    centre = torch.tensor(_CENTRES, dtype=torch.float64)[:, None] * 2 * bins / sample_rate
    width = torch.tensor(_WIDTHS, dtype=torch.float64)[:, None]
    distance = (torch.arange(bins) - centre.floor()) / (width * 2 * bins / sample_rate)
    filters = torch.exp(-11 * distance.square() + (width.min() / width).log())
    return torch.where(filters > math.exp(-30 / (2 * 2.303)), filters, 0.0)


def _frames(x: torch.Tensor, sample_rate: int) -> Iterator[torch.Tensor]:
    """Windowed frames (..., few, size), float64, of which the measures of Hu & Loizou are means; few stay in cache.

    As their programs cut them: 30 ms, a quarter apart, without the last that would fit; EPS is added to each sample.
    """
    size, hop, _ = _sizes(sample_rate)
    if x.shape[-1] < size + hop:
        raise MetricError(f"expected at least {size + hop} samples, a frame of 30 ms and a hop, got {x.shape[-1]}")
    n = torch.arange(1, size + 1, dtype=torch.float64, device=x.device)
    window = 0.5 * (1 - torch.cos(2 * math.pi * n / (size + 1)))
    few = max(1, 128 * x.shape[-1] // max(1, x.numel()))
    for some in (x.double() + EPS).unfold(-1, size, hop)[..., :-1, :].split(few, -2):
        yield some * window


def _bands(
    x: torch.Tensor, sample_rate: int, of_power: Callable[[torch.Tensor], torch.Tensor] = lambda power: power
) -> torch.Tensor:
    """A function of the frames' power spectra, gathered into critical bands: (..., N) -> (..., frames, 25)."""
    bands = _critical_bands(sample_rate).to(x.device).mT
    spectra = (torch.fft.rfft(some, _sizes(sample_rate)[2])[..., :-1] for some in _frames(x, sample_rate))
    return torch.cat([of_power(X.real.square() + X.imag.square()) @ bands for X in spectra], -2)


def fwsnrseg(clean: torch.Tensor, estimate: torch.Tensor, sample_rate: int = 16000) -> torch.Tensor:
    r"""Frequency-weighted segmental signal-to-noise ratio, dB (Hu & Loizou, 2008, eq. 7), as Loizou's `comp_fwseg`.

    Frames of 30 ms with 75 % overlap; magnitude spectra normalised to unit sum, gathered into 25 critical bands up to
    3.8 kHz. A frame has the mean over bands of $10 \log_{10} c^2 / (c - \hat c)^2$, weighted by $c^{0.2}$; that mean is
    clamped to [-10, 35] dB, and the file has the mean over frames. clean and estimate (..., N) -> (...), float64.
    Raises MetricError below 8 kHz, and for less than a frame and a hop.

    A frame of digital silence counts, as in the program, by the 2.2e-16 that is added to each sample: 35 dB where both
    signals are silent, about -10 dB where the clean speech alone is, however faint the noise.

    >>> s = torch.randn(2, 16000)
    >>> fwsnrseg(s, s)
    tensor([35., 35.], dtype=torch.float64)
    """

    def normalised(power: torch.Tensor) -> torch.Tensor:
        magnitude = power.sqrt()
        return magnitude / magnitude.sum(-1, keepdim=True)

    c, e = _bands(clean, sample_rate, normalised), _bands(estimate, sample_rate, normalised)
    weight = c.pow(0.2)
    snr = 10 * (c.square() / (c - e).square().clamp_min(EPS)).log10()
    return ((weight * snr).sum(-1) / weight.sum(-1)).clamp(-10, 35).mean(-1)


def _least(distances: torch.Tensor, share: float = 0.95) -> torch.Tensor:
    """Mean over the frames (..., T) but for the worst twentieth; MATLAB rounds halves up."""
    return distances.sort(-1).values[..., : math.floor(share * distances.shape[-1] + 0.5)].mean(-1)


def segmental_snr(clean: torch.Tensor, estimate: torch.Tensor, sample_rate: int = 16000) -> torch.Tensor:
    """Signal-to-noise ratio of a frame, clamped to [-10, 35] dB, mean over frames (Hu & Loizou, 2008, § III).

    clean and estimate (..., N) -> (...), float64. Raises MetricError for less than a frame of 30 ms and a hop.
    """

    def energy(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([some.square().sum(-1) for some in _frames(x, sample_rate)], -1)

    ratio = energy(clean) / (energy(clean.double() - estimate.double()) + EPS)
    return (10 * (ratio + EPS).log10()).clamp(-10, 35).mean(-1)


def linear_prediction(autocorrelation: torch.Tensor) -> torch.Tensor:
    """Coefficients (..., P + 1), the first of them 1, of an autocorrelation (..., P + 1), by Levinson's recursion.

    >>> linear_prediction(torch.tensor([1.0, 0.5, 0.25]))
    tensor([ 1.0000, -0.5000,  0.0000])
    """
    r = autocorrelation
    a, error = torch.ones_like(r[..., :1]), r[..., :1]
    for order in range(1, r.shape[-1]):
        reflection = -(a * r[..., 1 : order + 1].flip(-1)).sum(-1, keepdim=True) / error
        longer = torch.nn.functional.pad(a, (0, 1))
        a = longer + reflection * longer.flip(-1)
        error = error * (1 - reflection.square())
    return a


def log_likelihood_ratio(clean: torch.Tensor, estimate: torch.Tensor, sample_rate: int = 16000) -> torch.Tensor:
    r"""How badly the estimate's all-pole model predicts the clean speech (Hu & Loizou, 2008, eq. 4); 0 is the best.

    $\log (a_e R_c a_e^\top) / (a_c R_c a_c^\top)$ with 16 poles (10 below 10 kHz), without the worst 5 % of frames.
    clean and estimate (..., N) -> (...), float64. Raises MetricError for less than a frame of 30 ms and a hop.
    """
    poles = 16 if sample_rate >= 10_000 else 10

    def autocorrelation(x: torch.Tensor) -> torch.Tensor:
        spectra = (torch.fft.rfft(some, 2 * some.shape[-1]) for some in _frames(x, sample_rate))
        power = (X.real.square() + X.imag.square() for X in spectra)
        return torch.cat([torch.fft.irfft(P)[..., : poles + 1] for P in power], -2)

    r_c, r_e = autocorrelation(clean), autocorrelation(estimate)
    k = torch.arange(poles + 1, device=clean.device)
    R = r_c[..., (k[:, None] - k).abs()]
    a_c, a_e = linear_prediction(r_c)[..., None], linear_prediction(r_e)[..., None]
    ratio = (a_e.mT @ R @ a_e) / (a_c.mT @ R @ a_c)
    return _least(ratio[..., 0, 0].log())


def weighted_spectral_slope(clean: torch.Tensor, estimate: torch.Tensor, sample_rate: int = 16000) -> torch.Tensor:
    """Weighted distance of the slopes of critical-band spectra, dB² (Klatt, 1982; Hu & Loizou, 2008, eq. 6); 0 is best.

    clean and estimate (..., N) -> (...), float64, without the worst 5 % of frames. Raises MetricError below 8 kHz, and
    for less than a frame of 30 ms and a hop.
    """

    def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy = 10 * _bands(x, sample_rate).clamp_min(1e-10).log10()
        slope = energy.diff(dim=-1)
        here = energy[..., :-1]
        weight = 20 / (20 + energy.amax(-1, keepdim=True) - here) / (1 + _peak(energy, slope) - here)
        return slope, weight

    (slope, weight), (slope_e, weight_e) = slopes(clean), slopes(estimate)
    W = (weight + weight_e) / 2
    return _least((W * (slope - slope_e).square()).sum(-1) / W.sum(-1))


def _peak(energy: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The energy at the peak next to each band, uphill: to the right where the slope rises, else to the left.

    To the right it is the band before the peak, as in the authors' program, by which the published figures are made.
    """
    bands = slope.shape[-1]
    i = torch.arange(bands, device=slope.device).expand(slope.shape)
    rises = slope > 0
    falls_next = torch.where(rises, bands, i).flip(-1).cummin(-1).values.flip(-1)  # first band from here that falls
    rose_before = torch.where(rises, i, -1).cummax(-1).values  # last band up to here that rises
    return energy.gather(-1, torch.where(rises, falls_next - 1, rose_before + 1))


def _pesq(mode: str) -> Metric:
    def pesq(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
        import pesq as itu

        if sample_rate != 16000 and (mode, sample_rate) != ("nb", 8000):
            raise MetricError(f"PESQ: expected 16000 Hz{' or 8000 Hz' if mode == 'nb' else ''}, got {sample_rate}")
        if len(clean) > PESQ_SECONDS * sample_rate:
            most = PESQ_SECONDS * sample_rate
            raise MetricError(f"PESQ: expected {most} samples at most, {PESQ_SECONDS} s, got {len(clean)}")
        try:
            return float(itu.pesq(sample_rate, clean, estimate, mode))
        except itu.PesqError as error:
            text = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
            raise MetricError(f"PESQ: {text}") from error

    return pesq


pesq_wb, pesq_nb = _pesq("wb"), _pesq("nb")


def pesq_raw(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Raw narrow-band PESQ (P.862); by P.862.1 its MOS-LQO is 0.999 + 4 / (1 + exp(-1.4945 raw + 4.6607))."""
    return (4.6607 - math.log(4 / (pesq_nb(clean, estimate, sample_rate) - 0.999) - 1)) / 1.4945


def _stoi(extended: bool) -> Metric:
    def stoi(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
        import pystoi
        from pystoi import utils

        # Asked first: pystoi warns and makes up a value, and filters of warnings belong to the whole process
        enough = len(clean) >= STOI_SECONDS * sample_rate
        if enough and sample_rate != 10_000:
            clean, estimate = (utils.resample_oct(x, 10_000, sample_rate) for x in (clean, estimate))
        if not enough or len(utils.remove_silent_frames(clean, clean, 40, 256, 128)[0]) < 30 * 128 + 256:
            raise MetricError(f"STOI: needs {STOI_SECONDS} s of speech between the pauses")
        before = np.random.get_state()  # noqa: NPY002  pystoi adds noise of the size of rounding from there
        try:
            return float(pystoi.stoi(clean, estimate, 10_000, extended=extended))
        finally:
            np.random.set_state(before)  # noqa: NPY002

    return stoi


# Weights of 1, PESQ, LLR, WSS and segmental SNR (Hu & Loizou, 2008, § V, as their program has them)
_COMPOSITES = {
    "csig": (3.093, 0.603, -1.029, -0.009, 0.0),
    "cbak": (1.634, 0.478, 0.0, -0.007, 0.063),
    "covl": (1.594, 0.805, -0.512, -0.007, 0.0),
}


@lru_cache(maxsize=4)
def _parts(clean: bytes, estimate: bytes, sample_rate: int) -> tuple[float, ...]:
    """1, wide-band PESQ, LLR, WSS and segmental SNR of two float64 signals."""
    c, e = (np.frombuffer(x, np.float64).copy() for x in (clean, estimate))
    pesq = pesq_wb(c.astype(np.float32), e.astype(np.float32), sample_rate)
    others = (log_likelihood_ratio, weighted_spectral_slope, segmental_snr)
    return 1.0, pesq, *(_of_tensors(part)(c, e, sample_rate) for part in others)


def _composite(weights: Sequence[float]) -> Metric:
    def composite(clean: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
        """Predicted opinion of signal, background or both (Hu & Loizou, 2008), 1 to 5, by wide-band PESQ."""
        parts = _parts(clean.astype(np.float64).tobytes(), estimate.astype(np.float64).tobytes(), sample_rate)
        return min(5.0, max(1.0, sum(w * part for w, part in zip(weights, parts, strict=True))))

    return composite


def _of_tensors(measure: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]) -> Metric:
    """A measure of tensors as one of arrays."""
    return lambda clean, estimate, rate: float(measure(torch.from_numpy(clean), torch.from_numpy(estimate), rate))


@lru_cache
def _dnsmos_session() -> tuple[object, Callable[[float, float, float], tuple[float, float, float]]]:
    # It would write an identity of this machine under the home folder, and report what it runs
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    from speechmos import dnsmos as package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # files run in parallel, not the layers of one
    path = os.path.join(os.path.dirname(package.__file__), "dnsmos_models", "sig_bak_ovr.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, lambda *raw: package.DNSMOS.get_polyfit_val(None, *raw, False)


@lru_cache(maxsize=4)
def _dnsmos(samples: bytes, sample_rate: int) -> tuple[float, float, float]:
    """SIG, BAK, OVRL (Reddy, Gopal & Cutler, 2022): means over windows of 9.01 s; a shorter signal is repeated."""
    if sample_rate != 16000:
        raise MetricError(f"DNSMOS: expected 16000 Hz, got {sample_rate}")
    session, calibrate = _dnsmos_session()
    x, window = np.frombuffer(samples, np.float32), int(9.01 * sample_rate)
    if not x.any():
        raise MetricError("DNSMOS: the signal is silent")
    x = x / max(1.0, float(np.abs(x).max()))
    period = len(x)
    while len(x) < window:
        x = np.concatenate([x, x])
    windows = int(len(x) // sample_rate - 9.01) + 1  # one a second, and as the authors do, of whole seconds only
    places = [i % period for i in range(0, windows * sample_rate, sample_rate)]
    # of a signal that was repeated many windows are one: of 4 s four of seven, each half a second of computing
    found = {i: session.run(None, {"input_1": x[None, i : i + window]})[0][0] for i in dict.fromkeys(places)}  # type: ignore[attr-defined]
    sig, bak, ovr = np.mean([calibrate(*found[i]) for i in places], axis=0)
    return float(sig), float(bak), float(ovr)


def _dnsmos_part(part: int) -> Metric:
    return lambda clean, estimate, sample_rate: _dnsmos(estimate.astype(np.float32).tobytes(), sample_rate)[part]


METRICS: dict[str, Metric] = {
    "pesq_wb": pesq_wb,
    "pesq_nb": pesq_nb,
    "pesq_raw": pesq_raw,
    "stoi": _stoi(extended=False),
    "estoi": _stoi(extended=True),
    "si_sdr": _of_tensors(lambda clean, estimate, _: si_sdr(clean.double(), estimate.double())),
    "fwsnrseg": _of_tensors(fwsnrseg),
    **{name: _composite(weights) for name, weights in _COMPOSITES.items()},
    **{name: _dnsmos_part(part) for part, name in enumerate(CLEAN_FREE)},
}


class Scores(NamedTuple):
    """Values by name of the measure, NaN where there is none, and for those the reason."""

    values: dict[str, float]
    reasons: dict[str, str]

    @property
    def why(self) -> str:
        """The reasons in one line, as tables have them."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())


def check_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """The names, or the one, as a tuple; raises MetricError for one that is unknown, with the nearest ones."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.4) or list(METRICS)
            raise MetricError(f"unknown measure {name!r}; did you mean {' or '.join(near)}?")
    return names


Signal = torch.Tensor | np.ndarray


def score(
    clean: Signal | None,
    estimate: Signal,
    sample_rate: int = 16000,
    names: str | Iterable[str] = tuple(METRICS),
) -> Scores:
    """Measure one estimate (N,) against the clean speech (N,), or without it (None) by the measures that need none.

    Tensors or arrays of floating-point samples; what has less than 32 bits is measured as float32.
    Raises MetricError for an unknown name or lengths that differ, AudioError for NaN, integers or an empty signal. A
    measure that is not defined for the signals (silence, too short or long, another sample rate) is NaN with a reason.

    >>> s, n = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> score(s, s + 0.1 * n, names=["si_sdr", "fwsnrseg"]).reasons
    {'fwsnrseg': 'expected at least 600 samples, a frame of 30 ms and a hop, got 4'}
    """
    names = check_names(names)
    given = _checked(estimate, "estimate")
    if given.ndim != 1:
        raise AudioError(f"estimate: expected one channel (N,), got shape {tuple(given.shape)}")
    wanted = None if clean is None else _checked(clean, "clean")
    if wanted is not None and wanted.shape != given.shape:
        raise MetricError(f"clean has {tuple(wanted.shape)} samples but the estimate has {tuple(given.shape)}")
    e, c = _array(given), None if wanted is None else _array(wanted)
    found = {name: _measured(name, c, e, sample_rate) for name in names}
    values = {name: value for name, (value, _) in found.items()}
    return Scores(values, {name: why for name, (_, why) in found.items() if why})


def _measured(name: str, clean: np.ndarray | None, estimate: np.ndarray, sample_rate: int) -> tuple[float, str]:
    """The value of a measure, or NaN and why there is none."""
    if name not in CLEAN_FREE:
        if clean is None:
            return math.nan, "needs the clean speech"
        if not clean.any() or not estimate.any():
            return math.nan, f"the {'estimate' if clean.any() else 'clean speech'} is silent"
    try:
        value = METRICS[name](estimate if clean is None else clean, estimate, sample_rate)
    except MetricError as error:
        return math.nan, str(error)
    except ImportError as error:
        return math.nan, f"needs {error.name}: pip install 'sepriors[metrics]'"
    if math.isfinite(value):
        return value, ""
    return math.nan, f"is {value}: the estimate is the clean speech itself" if value > 0 else f"is {value}"


def _checked(x: Signal, name: str) -> torch.Tensor:
    """Samples as a tensor, whatever an array's layout and byte order; raises AudioError as `check` does."""
    if not isinstance(x, np.ndarray):
        return check(x, name)
    if x.dtype.kind not in "iufc":
        raise AudioError(f"{name}: expected floating-point samples in [-1, 1], got {x.dtype}")
    x = x.astype(np.float64 if x.dtype == np.longdouble else x.dtype.newbyteorder("="))
    return check(torch.from_numpy(np.ascontiguousarray(x)), name)


def _array(x: torch.Tensor) -> np.ndarray:
    """Samples for the measures that are not ours: float32, or float64 where they came so."""
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32)).numpy()


def workers() -> int:
    """Cores this process may use, however many the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool(ProcessPoolExecutor):
    """Processes that leave their work where the block is left by an error or Ctrl-C, however long a job would last."""

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for process in list((self._processes or {}).values()):
                process.terminate()
            # Else what is being sent to the dead, or they were sending, is waited for for ever (CPython's issue 94777)
            if calls := getattr(self, "_call_queue", None):
                calls._reader.close()
            if results := getattr(self, "_result_queue", None):
                results._writer.close()
        self.shutdown(wait=True, cancel_futures=kind is not None)


def pool(count: int | None = None) -> Pool:
    """So many processes (None: one a core) that share the cores: more threads than those slow each other many-fold.

    None is started before there is work for it. Where there is no fork server, on Windows, each imports by itself.
    """
    count = count or workers()
    if sys.platform == "win32":
        count = min(count, 61)  # as many as it lets one process wait for
    threads = max(1, workers() // count)
    context = start_context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__package__])  # imported once for all, and in memory that they share
    return Pool(count, context, _start_worker, (threads,))


def start_context() -> Any:
    """How fresh processes are started: by a fork server where the system has one, else each from nothing."""
    known = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # NumPy's and SciPy's have threads of their own
    for library in ("OMP", "OPENBLAS", "MKL"):  # those that a job loads later, scikit-learn's OpenMP for one
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent's word is enough
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the parent is gone, however it went; else a worker would wait for jobs for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def score_many(
    pairs: Iterable[tuple[Signal | None, Signal]],
    sample_rate: int = 16000,
    names: str | Iterable[str] = tuple(METRICS),
    executor: Executor | None = None,
) -> Iterator[Scores]:
    """`score` for many (clean, estimate) pairs, in order, over any `concurrent.futures.Executor` (None: this process).

    Raises MetricError where a process of the executor dies, besides what `score` raises.
    """
    names = check_names(names)
    as_arrays = (
        (None if c is None else _array(_checked(c, "clean")), _array(_checked(e, "estimate"))) for c, e in pairs
    )  # they travel between processes; tensors would need a shared-memory file each
    work = partial(_score_pair, sample_rate=sample_rate, names=names)
    try:
        while chunk := list(islice(as_arrays, 256 if executor else 1)):  # a bounded number of signals waits
            yield from (executor.map if executor else map)(work, chunk)
    except BrokenExecutor as error:
        raise MetricError(
            f"a process that measured died ({error}); is the memory full, "
            "or does a script start processes outside of if __name__ == '__main__'?"
        ) from error


def _score_pair(pair: tuple[np.ndarray | None, np.ndarray], sample_rate: int, names: Sequence[str]) -> Scores:
    return score(*pair, sample_rate, names)
