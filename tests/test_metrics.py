"""Every measure against a closed form or what the published programs answer; and no guess where there is none."""

import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speechlike

from sepriors import metrics
from sepriors.lab.corpora import open_corpora
from sepriors.metrics import METRICS, MetricError, score, score_many
from sepriors.signal.audio import AudioError

DATA = os.environ.get("SEPRIORS_DATA")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tones(seed, length, rate=16000):
    """Six tones that swell and fade, and the same in white noise, each (length,) float64."""
    r = np.random.default_rng(seed)
    t = np.arange(length) / rate
    parts = zip(r.uniform(0.02, 0.2, 6), r.uniform(100, 3500, 6), r.uniform(0, 6, 6), strict=True)
    clean = sum(a * np.sin(2 * np.pi * f * t + p) for a, f, p in parts) * np.sin(2 * np.pi * (1 + seed / 3) * t) ** 2
    return clean, clean + r.normal(size=length) * 10 ** (-(seed % 4) / 2 - 1)


def voice(seed, length, rate=16000):
    """A voiced sound in syllables, with a floor of noise, and the same in more white noise, each (length,) float64."""
    r = np.random.default_rng(seed)
    t = np.arange(length) / rate
    pitch = r.uniform(90, 200)
    clean = sum(np.sin(2 * np.pi * k * pitch * t + k) / k for k in range(1, 20))
    clean = 0.1 * clean * np.clip(np.sin(2 * np.pi * (3 + seed / 5) * t), 0, None) + 1e-3 * r.normal(size=length)
    return clean, clean + r.normal(size=length) * 10 ** (-(seed % 4) / 2 - 1)


def label(value):
    """A test's name without an address: workers that share the tests compare their names."""
    return "-".join(getattr(part, "__name__", str(part)) for part in value) if isinstance(value, tuple) else str(value)


def tensors(signals):
    return tuple(torch.from_numpy(x) for x in signals)


@pytest.fixture(scope="module")
def speech():
    """Three excerpts of 3 s: people where there are any, else what sounds a little like them."""
    if not DATA:
        return speechlike(3, 48000)
    corpora = open_corpora(DATA)
    rows = corpora.select(kind="speech", split="test").query("seconds > 4")
    return torch.stack([corpora.read(path)[8000:56000] for path in rows["path"][:: len(rows) // 3][:3]])


# -------------------------------------------------------------------------- SI-SDR


@pytest.mark.parametrize("ratio", [-20.0, 0.0, 7.5, 60.0])
def test_si_sdr_of_orthogonal_noise(ratio):
    s = noise(4, 1000).double()
    n = noise(4, 1000, seed=1).double()
    n -= (n * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True) * s
    n *= (s.square().sum(-1, keepdim=True) / n.square().sum(-1, keepdim=True) / 10 ** (ratio / 10)).sqrt()
    got = metrics.si_sdr(s, s + n)
    torch.testing.assert_close(got, torch.full((4,), ratio).double())
    for gain in (0.01, -3.0):
        torch.testing.assert_close(metrics.si_sdr(s, gain * (s + n)), got)
        torch.testing.assert_close(metrics.si_sdr(gain * s, s + n), got)


# fast_bss_eval 0.1.4; torchmetrics 1.9.0 agrees to 12 digits
SI_SDR = {
    (tones, 0, 16000): 2.09258482817418,
    (voice, 2, 32000): 13.1625789667017,
}


@pytest.mark.parametrize(("signals", "expected"), SI_SDR.items(), ids=label)
def test_si_sdr_is_that_of_others(signals, expected):
    make, *choices = signals
    assert float(metrics.si_sdr(*tensors(make(*choices)))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_si_sdr_of_short_floats(dtype):
    """Of 3 s of speech at full scale the energy is beyond what float16 holds, and bfloat16 sums to three digits."""
    s = noise(48000)
    e = s + 0.1 * noise(48000, seed=1)
    s, e = 3 * s.to(dtype), 3 * e.to(dtype)
    got = metrics.si_sdr(s, e)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, metrics.si_sdr(s.double(), e.double()).float())
    assert metrics.si_sdr(s, e.double()).dtype == torch.float64


# ------------------------------------------------- fwSNRseg and the parts of the composites

# fwSNRseg, segmental SNR, LLR and WSS by Loizou's comp_fwseg.m and composite.m, run by GNU Octave 7.3.0. Of tones alone
# LLR has few digits: their prediction error is rounding. fwSNRseg of the tones at 16 kHz is that of MATLAB, too.
BY_LOIZOU = {
    (tones, 0, 16000, 16000): (-9.49650238767, -1.045241882852, None, 169.1256959927),
    (tones, 3, 40000, 16000): (7.936263825184, 24.32891645533, None, 134.326332175),
    (voice, 0, 16000, 16000): (8.518430795523, -7.411564622744, 1.926814812604, 44.36868932887),
    (voice, 3, 40000, 16000): (14.76532634317, 7.494138815168, 0.3815830778158, 16.42987634054),
    (voice, 1, 4100, 16000): (8.387881976462, -0.5068775981665, 1.980810147793, 24.86443327464),  # 28.5 of 30 frames
    (voice, 2, 16000, 8000): (12.73395460485, 2.380797505256, 0.6947738140372, 21.39509367907),
    (voice, 2, 2000, 8150): (13.82830899335, 6.056240465478, 0.8397367079161, 17.34907777245),  # 244.5 samples
    (voice, 3, 12345, 44100): (13.03764156788, 8.276923891116, 0.2630022032056, 13.26736651812),
}
PARTS = (
    metrics.fwsnrseg, metrics.segmental_snr, metrics.log_likelihood_ratio, metrics.weighted_spectral_slope
)  # fmt: skip


@pytest.mark.parametrize(("signals", "expected"), BY_LOIZOU.items(), ids=label)
def test_parts_are_those_of_the_programs(signals, expected):
    make, *choices = signals
    clean, estimate = tensors(make(*choices))
    for part, value in zip(PARTS, expected, strict=True):
        if value is not None:
            got = part(clean, estimate, choices[-1])
            assert got.dtype == torch.float64
            assert float(got) == pytest.approx(value, abs=1e-9)
            # rounded to float32 before, the signals are others, but nothing is computed in it
            rounded = part(clean.float(), estimate.float(), choices[-1])
            assert float(rounded) == float(part(clean.float().double(), estimate.float().double(), choices[-1]))


@pytest.mark.parametrize(
    ("clean_too", "estimate_too", "expected"),
    [(True, False, 9.923801694538), (False, True, 11.6568392259), (True, True, 18.56759134072)],
)
def test_fwsnrseg_of_digital_silence_is_that_of_the_program(clean_too, estimate_too, expected):
    clean, estimate = tensors(voice(3, 40000))
    for x, silent in ((clean, clean_too), (estimate, estimate_too)):
        x[8000:16000] *= not silent
    assert float(metrics.fwsnrseg(clean, estimate)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.corpora
def test_parts_of_the_composites_batched(speech):
    """A file alone or in a batch; a perfect estimate, at another level where frames are normalised; the worst."""
    s = speech.double()
    e = s + 0.1 * s.std() * noise(*s.shape).double()
    for part, best in zip(PARTS, (35.0, 35.0, 0.0, 0.0), strict=True):
        torch.testing.assert_close(part(s, e)[1], part(s[1], e[1]))
        perfect = s if part is metrics.segmental_snr else 0.1 * s
        expected = torch.full((3,), best).double()
        torch.testing.assert_close(part(s, perfect), expected, rtol=0, atol=0.5 if best else 1e-9)
        assert part(s[:, :600], e[:, :600]).isfinite().all()
        with pytest.raises(MetricError, match="at least 600 samples, a frame of 30 ms and a hop, got 599"):
            part(s[:, :599], s[:, :599])
    silence = torch.zeros(8000)
    assert float(metrics.fwsnrseg(silence, silence)) == 35
    assert float(metrics.fwsnrseg(silence, 1e-6 * noise(8000))) == pytest.approx(-10, abs=0.1)


# Wide- and narrow-band PESQ by pesq 0.0.4 (narrow-band also by pesqc2 0.0.4, whose wide band follows a later
# corrigendum); CSIG, CBAK, COVL by composite.m in GNU Octave 7.3.0, as in the VoiceBank-DEMAND literature
BY_PROGRAMS = {
    (0, 16000, 16000): (1.107690930, 1.670821905, 1.378926984881, 1.38596686818, 1.18858118959),
    (1, 24000, 16000): (1.116034746, 1.659631252, 1.860173404632, 1.79594533927, 1.471452614673),
    (3, 40000, 16000): (2.199858904, 2.499593735, 3.878997044905, 3.042654167029, 3.054506747402),
    (3, 20000, 8000): (math.nan, 2.497924328, math.nan, math.nan, math.nan),  # telephone speech
}


@pytest.mark.parametrize(("signals", "expected"), BY_PROGRAMS.items(), ids=label)
def test_pesq_and_composites_are_those_of_the_programs(signals, expected):
    """To 1e-4: so much may PESQ, whose code computes in float32, differ between machines."""
    names = ("pesq_wb", "pesq_nb", "csig", "cbak", "covl")
    got = score(*voice(*signals), signals[-1], names).values
    assert list(got.values()) == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.corpora
def test_composites_stay_on_their_scale(speech):
    perfect = score(speech[0], 0.9 * speech[0] + 1e-6 * noise(48000), names=("csig", "cbak", "covl")).values
    assert perfect["csig"] == perfect["covl"] == 5
    awful = score(speech[0], noise(48000), names=("csig", "cbak", "covl")).values
    assert awful["csig"] == awful["covl"] == 1
    assert 1 <= awful["cbak"] < 2


# ---------------------------------------------------------------------------- PESQ


@pytest.mark.parametrize(("raw", "lqo"), [(1.61, 1.38), (2.01, 1.64), (2.42, 2.03)])
def test_the_mapping_between_raw_and_narrow_band_pesq(monkeypatch, raw, lqo):
    exact = 0.999 + 4 / (1 + math.exp(-1.4945 * raw + 4.6607))
    assert exact == pytest.approx(lqo, abs=0.015)  # both printed with two digits
    monkeypatch.setattr(metrics, "pesq_nb", lambda *_: exact)
    assert metrics.pesq_raw(np.zeros(1), np.zeros(1), 16000) == pytest.approx(raw)


@pytest.mark.corpora
def test_the_ends_of_the_pesq_scales(speech):
    best = score(speech[0], speech[0], names=["pesq_wb", "pesq_nb", "pesq_raw"]).values
    assert best["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert best["pesq_nb"] == pytest.approx(4.549, abs=1e-3)
    assert best["pesq_raw"] == pytest.approx(4.5, abs=1e-3)
    worst = score(speech[0], noise(48000), names=["pesq_wb", "pesq_nb"]).values
    assert all(1 <= value < 1.6 for value in worst.values())


def test_pesq_does_not_crash_on_many_utterances():
    """The ITU's code overruns its memory past 50 of them; within the limit there cannot be more."""
    s = speechlike(1, metrics.PESQ_SECONDS * 16000)[0]
    s = s * (torch.arange(len(s)) % 6720 < 3360)  # 0.21 s on, 0.21 s off
    names = ["pesq_wb", "pesq_nb"]
    assert not score(s, s + 0.001 * noise(len(s)), names=names).reasons
    longer = torch.cat([s, s[:1]])
    reason = "PESQ: expected 320000 samples at most, 20 s, got 320001"
    assert score(longer, longer, names=names).reasons == dict.fromkeys(names, reason)


# -------------------------------------------------------------------- STOI, DNSMOS


@pytest.mark.corpora
def test_stoi_is_the_packages(speech):
    import pystoi

    e = speech[0] + 0.05 * noise(48000)
    got = score(speech[0], e, names=["stoi", "estoi"]).values
    assert got["stoi"] == pytest.approx(pystoi.stoi(speech[0].numpy(), e.numpy(), 16000))
    assert got["estoi"] == pytest.approx(pystoi.stoi(speech[0].numpy(), e.numpy(), 16000, extended=True))
    assert score(speech[0], 0.01 * e, names=["stoi"]).values["stoi"] == pytest.approx(got["stoi"], abs=1e-4)


# The authors' stoi.m (Taal et al., 2011) by GNU Octave 7.3.0, at its own sample rate
STOI = {
    (tones, 2): 0.7132091121841,
    (voice, 1): 0.8289644337962,
}


@pytest.mark.parametrize(("signals", "expected"), STOI.items(), ids=label)
def test_stoi_is_the_authors(signals, expected):
    make, seed = signals
    assert score(*make(seed, 20000, 10000), 10000, "stoi").values["stoi"] == pytest.approx(expected, abs=1e-9)


def test_stoi_changes_no_filter_of_warnings(monkeypatch):
    """They belong to the process: whoever changes them, even for a moment, hides the warnings of other threads."""

    def touched(*_, **__):
        raise AssertionError("filters of warnings were touched")

    for name in ("simplefilter", "filterwarnings", "resetwarnings", "catch_warnings"):
        monkeypatch.setattr(warnings, name, touched)
    s = speechlike(1, 32000)[0]
    assert not score(s, s + 0.1 * noise(32000), names=["stoi"]).reasons
    assert "STOI: needs 0.4 s" in score(s[:7000], s[:7000], names=["stoi"]).reasons["stoi"]


# speechmos 0.0.1.1
DNSMOS = {
    24000: (2.855616829, 2.683658752, 1.987691891),
    40000: (2.876934467, 2.660630870, 1.978332445),
    200000: (2.912497866, 2.892681074, 2.145647145),
}


@pytest.mark.parametrize("length", DNSMOS)
def test_dnsmos_is_the_authors(length):
    got = score(None, voice(3, length)[1].astype(np.float32), names=metrics.CLEAN_FREE).values
    assert [got[name] for name in metrics.CLEAN_FREE] == pytest.approx(DNSMOS[length], abs=1e-4)


SCORED = """
import numpy as np
from sepriors import metrics

r = np.random.default_rng(0)
print(metrics.score(None, 0.1 * r.normal(size=16000), names="dnsmos_sig").values)
"""


@pytest.mark.fault(
    "DNSMOS's runtime reports what it runs to its maker, and keeps an identity under the home folder",
    "That is switched off; nothing is written",
)
def test_nothing_is_written_under_the_home_folder(tmp_path):
    """onnxruntime is silent where it is tested, so the test must look like a user."""
    home = tmp_path / "home"
    home.mkdir()
    quiet = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME")
    user = {name: value for name, value in os.environ.items() if name not in quiet and not name.endswith("_CI")}
    user |= {"HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    user["PYTHONPATH"] = str(Path(metrics.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", SCORED], env=user, capture_output=True, text=True, timeout=120)
    assert "dnsmos_sig" in done.stdout, done.stderr
    assert list(home.rglob("*")) == []


# ------------------------------------------------------------------- all of them


@pytest.mark.corpora
@pytest.mark.skipif(not DATA, reason="needs VoiceBank-DEMAND pairs; CI has them")
def test_scores_that_others_published():
    """Means of noisy files near those of the whole test set, 824 files: 1.97 (standard deviation .75), .92, 8.4 dB.

    And PESQ, STOI and SNR of one file, where it is at hand, from VCTK's scores that come with VQScore.
    """
    corpora = open_corpora(DATA)
    clean, noisy = (
        {Path(path).stem: path for path in corpora.select(kind=f"pair-{side}", split="test")["path"]}
        for side in ("clean", "noisy")
    )
    chosen = {"p232_001", *sorted(noisy)[::3]} & noisy.keys()
    rows = {
        name: score(corpora.read(clean[name]), corpora.read(noisy[name]), names=["pesq_wb", "stoi", "si_sdr"]).values
        for name in chosen
    }
    means = {name: np.mean([row[name] for row in rows.values()]) for name in ("pesq_wb", "stoi", "si_sdr")}
    assert 1.5 < means["pesq_wb"] < 3
    assert 0.85 < means["stoi"] < 0.97
    assert 4 < means["si_sdr"] < 16
    if "p232_001" in rows:
        assert list(rows["p232_001"].values()) == pytest.approx([2.9238, 0.8967, 15.47], abs=0.05)


@pytest.mark.parametrize("names", [*([m] for m in METRICS if m not in metrics.CLEAN_FREE), metrics.CLEAN_FREE], ids=str)
def test_no_value_without_a_reason(names):
    s = speechlike(1, 32000)[0]
    silence = torch.zeros_like(s)
    click = silence.clone()
    click[16000] = 0.5
    some = (1, 480) if names == metrics.CLEAN_FREE else (1, 2, 100, 479, 480, 3000, 6400)  # DNSMOS is slow
    cases = [(s, silence, 16000), (silence, s, 16000), (silence, silence, 16000), (click, s, 16000), (s, s, 4000)]
    cases += [(s[:n], s[:n] + 0.01 * noise(n), 16000) for n in some]
    cases += [(s, s + 0.01 * noise(len(s)), rate) for rate in (8000, 11025, 44100)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clean, estimate, rate in cases:
            values, reasons = score(clean, estimate, rate, names)
            for name in names:
                assert math.isfinite(values[name]) == (name not in reasons)
                assert reasons.get(name, "a reason")
    silent = score(s, silence, names=names)
    assert all(math.isnan(silent.values[name]) and "silent" in silent.reasons[name] for name in names)


def test_reasons():
    s = speechlike(1, 32000)[0]
    got = score(s, s, 44100)
    assert got.reasons["pesq_wb"] == "PESQ: expected 16000 Hz, got 44100"
    assert got.reasons["pesq_nb"] == got.reasons["pesq_raw"] == "PESQ: expected 16000 Hz or 8000 Hz, got 44100"
    assert got.reasons["dnsmos_ovr"] == "DNSMOS: expected 16000 Hz, got 44100"
    assert score(torch.zeros(16000), s[:16000], names=["stoi"]).reasons["stoi"] == "the clean speech is silent"
    assert score(s[:3000], s[:3000], names=["pesq_wb"]).reasons["pesq_wb"].startswith("PESQ: Buffer needs to be")
    assert score(s, s, names=["si_sdr"]).reasons["si_sdr"] == "is inf: the estimate is the clean speech itself"
    assert score(None, s, names=["stoi"]).reasons["stoi"] == "needs the clean speech"
    assert not score(None, s, names=metrics.CLEAN_FREE).reasons
    assert "STOI: needs 0.4 s" in score(s[:5000], s[:5000], names=["stoi"]).reasons["stoi"]


@pytest.mark.parametrize(("clean", "estimate", "names", "error", "message"), [
    (torch.ones(9), torch.ones(8), ["stoi"], MetricError, r"clean has \(9,\) samples but the estimate has \(8,\)"),
    (torch.ones(9), torch.ones(9), ["pesq"], MetricError, "unknown measure 'pesq'; did you mean pesq_"),
    (torch.ones(9), torch.ones(9), "stio", MetricError, "unknown measure 'stio'; did you mean stoi"),
    (torch.ones(1, 9), torch.ones(1, 9), ["stoi"], AudioError, r"expected one channel \(N,\), got shape \(1, 9\)"),
    (torch.ones(9), torch.full((9,), math.nan), ["stoi"], AudioError, "estimate: expected finite samples"),
    (torch.full((9,), math.inf), torch.ones(9), ["stoi"], AudioError, "clean: expected finite samples"),
    (torch.ones(0), torch.ones(0), ["stoi"], AudioError, "at least one sample"),
    (np.ones(9), np.ones(9, np.int16), ["stoi"], AudioError, "estimate: expected floating-point samples"),
    (torch.ones(9), [1.0] * 9, ["stoi"], AudioError, "estimate: expected .* got list"),
])  # fmt: skip
def test_what_is_not_measured_at_all(clean, estimate, names, error, message):
    with pytest.raises(error, match=message):
        score(clean, estimate, names=names)


def test_arrays_are_measured_as_tensors_are():
    """However they lie in memory: backwards, in the other byte order, read-only, in half or twice the bits.

    And as tensors are that have gradients, or two bytes a sample.
    """
    s, e = voice(2, 16000)
    names = ["si_sdr", "fwsnrseg", "stoi"]
    expected = score(*tensors((s, e)), names=names).values
    frozen = s.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clean, estimate in ((s, e), (s[::-1].copy()[::-1], e.astype(">f8")), (frozen, e.astype(np.longdouble))):
            assert score(clean, estimate, names=names).values == expected
        assert score(torch.from_numpy(s), torch.from_numpy(e).requires_grad_(), names=names).values == expected
    halves = [tuple(x.astype(np.float16) for x in (s, e)), tuple(x.bfloat16() for x in tensors((s, e)))]
    for half in score_many(halves, names=names):
        assert half.values == pytest.approx(expected, abs=0.05)
    with pytest.raises(AudioError, match=r"clean: expected floating-point samples in \[-1, 1\], got torch.int16"):
        list(score_many([(torch.ones(9).short(), torch.ones(9))], names=names))


# ------------------------------------------------------------------------ many of them


@pytest.mark.corpora
def test_many_alike_in_this_process_in_threads_and_in_processes(speech):
    names = ["pesq_wb", "stoi", "si_sdr", "fwsnrseg", "dnsmos_bak"]
    short = torch.zeros(4000)
    pairs = [(s, s + 0.1 * noise(48000, seed=i)) for i, s in enumerate(speech)] + [(short, short)]
    expected = [score(*pair, names=names) for pair in pairs]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads, metrics.pool() as processes:
        for executor in (None, threads, processes):
            got = list(score_many(iter(pairs), names=names, executor=executor))
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_equal(a.values, b.values)
                assert a.reasons == b.reasons
        assert list(score_many([], executor=processes)) == []
        with pytest.raises(MetricError, match=r"clean has \(3,\)"):
            list(score_many([(torch.ones(3), torch.ones(2))], executor=processes))
    assert warnings.filters == filters
    assert pickle.loads(pickle.dumps(MetricError("why"))).args == ("why",)


def test_a_pool_where_there_is_no_fork_server(monkeypatch):
    """Windows has none."""
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with metrics.pool(1) as executor:
        assert executor._mp_context.get_start_method() == "spawn"
        (got,) = score_many([tensors(voice(2, 8000))], names="si_sdr", executor=executor)
    assert got == score(*voice(2, 8000), names="si_sdr")


def test_a_process_that_dies_is_an_error_of_one_line():
    class Dies(Executor):
        def submit(self, *args, **kwargs):
            future = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    with pytest.raises(MetricError, match=r"died \(terminated abruptly\); is the memory full, or does a script start"):
        list(score_many([(torch.ones(3), torch.ones(3))], names=["si_sdr"], executor=Dies()))


def interrupted():
    """Both workers sleep, and an array is on its way that a pipe does not hold."""
    with metrics.pool(2) as executor:
        jobs = [executor.submit(time.sleep, 100) for _ in range(2)] + [executor.submit(np.sum, np.zeros(4_000_000))]
        while not all(job.running() for job in jobs):
            pass
        raise KeyboardInterrupt


def test_a_pool_is_left_though_much_is_on_its_way_to_it():
    """Whoever writes to the pipe must not wait for readers that are gone."""
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            interrupted()


CUT_OFF = """
import time
from sepriors import metrics


def late():
    time.sleep(2)


class Late:
    def __reduce__(self):  # who reads this result is busy for two seconds
        return late, ()


def large():
    return bytes(2**22)


if __name__ == "__main__":
    with metrics.pool(1) as executor:
        executor.submit(abs, 1).result()
        executor.submit(Late)
        executor.submit(large)
        time.sleep(1)
        raise KeyboardInterrupt
"""


@pytest.mark.fault(
    "Ctrl-C while a process that works sends its result", "It ends; nobody waits for the half that is missing"
)
def test_a_pool_is_left_though_a_result_is_cut_off(tmp_path):
    """A worker that is ended while it sends leaves half a message, whose rest would be waited for for ever."""
    script = tmp_path / "cut_off.py"
    script.write_text(CUT_OFF)
    done = subprocess.run([sys.executable, script], stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_random_numbers_of_the_process_are_as_before():
    """pystoi draws from NumPy's."""
    x = speechlike(2, 16000)
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    score(x[0], x[0] + 0.1 * x[1])
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
