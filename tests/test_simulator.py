"""What a simulator draws: ratios, odds, equalisers, rooms and babble are what its conditions say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torchaudio.functional import fftconvolve

from sepriors.lab.corpora.store import Decoded
from sepriors.lab.training import rooms, simulator
from sepriors.lab.training.simulator import Clips, Conditions, Simulator, at_snr, choose, crop, equalised

PLAIN = Conditions(second=0.0, babble=0.0, tilt_db=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path_factory.getbasetemp() / "decoded"))


def clips(*lengths, around=False):
    """Clips of files whose samples say which file they are of: 1000 and more, 2000 and more."""
    files = Decoded([np.arange(n, dtype=np.int16) + 1000 * (i + 1) for i, n in enumerate(lengths)])
    return Clips(files, [2.0**15] * len(lengths), torch.tensor(lengths, dtype=torch.float64), 8, around)


def simulated(toy, conditions, seconds=0.5, **noises):
    speech, noise = toy.select(kind="speech", split="train"), toy.select(kind="noise", split="train", **noises)
    return Simulator.read(toy, speech, noise, seconds=seconds, conditions=conditions)


# ------------------------------------------------------------- clips


def test_a_clip_is_a_part_of_its_file():
    """From anywhere in it, and each file comes as often as its odds say."""
    for x in clips(20, 30).draw(200, seeded()):
        assert x.diff().eq(1).all()
        i, start = divmod(int(x[0]), 1000)
        assert start <= (20, 30)[i - 1] - 8
    g = seeded()
    starts = torch.tensor([int(crop(torch.arange(10), 8, g)[0]) for _ in range(600)])
    torch.testing.assert_close(starts.bincount() / 600, torch.full((3,), 1 / 3), atol=0.06, rtol=0)
    assert crop(torch.zeros(8, 2), 8, seeded()).shape == (8, 2)
    drawn = choose(torch.tensor([0.1, 0.9]), 4000, seeded())
    assert sum(drawn) / 4000 == pytest.approx(0.9, abs=0.02)


def test_short_speech_is_filled_with_silence_and_noise_goes_round():
    assert clips(3).draw(1, seeded())[0].tolist() == [1000, 1001, 1002, 0, 0, 0, 0, 0]
    assert clips(8).draw(1, seeded())[0].tolist() == list(range(1000, 1008))
    found = {tuple(x.tolist()) for x in clips(3, around=True).draw(50, seeded())}
    line = [1000, 1001, 1002] * 4
    assert found == {tuple(line[i : i + 8]) for i in range(3)}


def test_recordings_have_power_1_and_every_second_of_speech_is_alike(toy):
    rows = toy.select(kind="noise", split="train")
    noise = Clips.of_noise(toy, rows, 1600)
    for gain, x in zip(noise.gains, noise.files, strict=True):
        assert float((gain * x).square().mean()) == pytest.approx(1, rel=1e-4)
    speech = Clips.of_speech(toy, toy.select(kind="speech", split="train"), 1600)
    assert speech.odds.tolist() == speech.files.lengths


def test_a_class_of_noise_comes_as_the_root_of_its_seconds_says():
    """Two classes of 4 and 16 s: odds 2 to 4, whatever the number of their recordings."""

    class Fake:
        def decoded(self, rows, progress=False):
            return Decoded([np.ones(round(s), np.int16) for s in rows["seconds"]])

    rows = pd.DataFrame({"path": list("abcd"), "cls": list("xyyy"), "seconds": [4, 8, 4, 4]}, index=[7, 3, 2, 9])
    odds = Clips.of_noise(Fake(), rows, 2).odds
    assert (odds / odds.sum()).tolist() == pytest.approx([2 / 6, 2 / 6, 1 / 6, 1 / 6])


# ------------------------------------------------------------- mixtures


def test_ratios_are_even_between_their_bounds(toy):
    made = simulated(toy, replace(PLAIN, snr_db=(-5.0, 15.0)), cls="street")  # the other has pauses
    noisy, clean = made.draw(300, seeded())
    clean_power, noise_power = (x.square().mean(1) for x in (clean, noisy - clean))
    loud = clean_power > 2 * simulator.FAINT
    snr = 10 * (clean_power / noise_power).log10()[loud]
    assert -5.01 < snr.min() < -4
    assert 14 < snr.max() < 15.01
    assert snr.mean() == pytest.approx(5, abs=1)


def test_a_pause_is_not_a_reason_for_loud_noise():
    silent, noise = torch.zeros(1, 100), torch.ones(1, 100)
    noisy = at_snr(silent, noise, (0.0, 0.0), seeded())
    assert float(noisy.square().mean()) == pytest.approx(simulator.FAINT)
    assert at_snr(noise, silent, (-10.0, -10.0), seeded()).equal(noise)


def test_one_seed_one_batch(toy):
    made, again = (simulated(toy, Conditions(rooms=0.5, responses=3)) for _ in range(2))
    batch = made.draw(8, seeded())
    assert batch.noisy.shape == batch.clean.shape == (8, 8000)
    for other in (made, again):
        assert all(x.equal(y) for x, y in zip(batch, other.draw(8, seeded()), strict=True))
    assert not batch.noisy.equal(made.draw(8, seeded(1)).noisy)


def test_babble_is_made_of_so_many_talkers(toy, monkeypatch):
    made = simulated(toy, replace(PLAIN, babble=1.0, talkers=(3, 5), snr_db=(0.0, 0.0)))
    asked, exact = [], Clips.draw

    def draw(self, count, g):
        if self is made.speech:
            asked.append(count)
        return exact(self, count, g)

    monkeypatch.setattr(Clips, "draw", draw)
    made.draw(40, seeded())
    assert asked[0] == 40
    assert set(asked[1:]) == {3, 4, 5}
    assert len(asked) == 41


def test_a_second_recording_is_fainter(toy, monkeypatch):
    """Half of the mixtures have one, and it adds at most as much as there is."""
    made = simulated(toy, replace(PLAIN, second=0.5))
    monkeypatch.setattr(Clips, "draw", lambda self, count, g: torch.ones(count, 10))
    noise = made._noise(1000, seeded())[:, 0]
    assert float((noise == 1).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert 1 <= noise.min() <= noise.max() < 2


def test_an_equalised_clip_is_a_filtered_one():
    """Its spectrum over the clip's is a smooth curve of some decibels, another for each clip."""
    x = torch.randn(200, 8000, generator=seeded())
    gain_db = 20 * (torch.fft.rfft(equalised(x, seeded(1))) / torch.fft.rfft(x)).abs().log10()[:, 1:-1]
    assert gain_db.diff().abs().max() < 0.05
    assert 0.9 * 3 * 1.5**0.5 < gain_db.std() < 1.1 * 3 * 1.5**0.5  # three cosines of 3 dB
    assert equalised(x, seeded(1), 0.0).allclose(x, atol=1e-5)


# ------------------------------------------------------------- rooms


@pytest.fixture(scope="module")
def responses():
    return rooms.simulate(12, seeded())


def test_the_direct_sound_comes_first_and_reflections_decay(responses):
    whole, early = responses
    assert whole.shape == early.shape == (12, 9600)
    assert whole[:, 0].eq(1).all()
    assert whole.abs().max() == 1
    assert early[:, :800].equal(whole[:, :800])
    assert early[:, 800:].eq(0).all()
    assert (whole[:, 800:].abs().amax(1) > 0).all()
    assert whole[:, -1600:].square().sum(1).lt(0.1 * whole[:, 1:].square().sum(1)).all()
    assert not whole[0].equal(whole[1])
    assert rooms.simulate(2, seeded()).whole.equal(whole[:2])


def test_reverberation_decays_as_fast_as_rooms_do(responses):
    """Schroeder's backward integral from -5 to -25 dB: between a tenth and nine tenths of a second."""
    for response in responses.whole[:, 1:].double():
        energy = response.square().flip(0).cumsum(0).flip(0)
        level = 10 * (energy / energy[0]).clamp_min(1e-12).log10()
        t = [float((level > bound).sum()) / 16000 for bound in (-5.0, -25.0)]
        assert 0.1 < 3 * (t[1] - t[0]) < 0.9


def test_speech_in_a_room(toy):
    """The mixture has all reflections, what is wanted the early ones; without a room both are the speech."""
    made = simulated(toy, replace(PLAIN, rooms=1.0, responses=4, snr_db=(90.0, 90.0)), seconds=1.0)
    g, h = seeded(), seeded()
    speech = made.speech.draw(6, h)
    noisy, clean = made.draw(6, g)
    late = noisy - clean
    assert (late.square().mean(1) > 1e-4 * clean.square().mean(1)).all()
    assert late[:, :800].abs().max() < 1e-3 * noisy.abs().max()  # nothing is late before 50 ms
    candidates = [fftconvolve(speech, early[None])[:, :16000] for early in made.responses.early]
    nearest = torch.stack([(clean - x).abs().amax(1) for x in candidates]).amin(0)
    assert nearest.max() < 1e-5 * speech.abs().max()
    dry = simulated(toy, replace(PLAIN, snr_db=(90.0, 90.0)), seconds=1.0)
    noisy, clean = dry.draw(6, seeded())
    assert (noisy - clean).square().mean() < 1e-8


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyroomacoustics", None)
    with pytest.raises(ImportError, match=r"pip install 'sepriors\[rooms\]'"):
        rooms.simulate(1, seeded())
