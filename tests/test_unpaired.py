"""That no pair is ever seen together, and what mixtures, clean clips and noise are made of."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch

from sepriors import unpaired
from sepriors.corpora import CorpusError
from sepriors.unpaired import Clips, at_snr, drawing, held_out, share

SECONDS = 0.5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def elsewhere(toy):
    """The corpus with speech of another corpus for the out-of-domain prior: the same sounds under other names."""
    rows = toy.table[toy.table["kind"] == "speech"]
    other = rows.assign(corpus="emodb", speaker="EMO" + rows["speaker"])
    known = pd.concat([toy.table, other], ignore_index=True).drop_duplicates("path", keep="first")
    moved = (known["speaker"] == "1") & (known["split"] == "train")  # one of the two training speakers
    known.loc[moved, ["corpus", "speaker"]] = ["emodb", "EMO1"]
    return type(toy)(toy.root, known, toy.origin)


# ------------------------------------------------------------- who is in which corpus


def test_no_pair_is_ever_seen_together(toy):
    """Mixtures, clean corpus and noise corpus share no file; speakers and recordings are divided, too."""
    parts = share(toy)
    for a, b in combinations(parts, 2):
        assert not set(a["path"]) & set(b["path"])
    assert not set(parts.speech["speaker"]) & set(parts.clean["speaker"])
    assert not set(parts.noise["source"]) & set(parts.alone["source"])
    for rows in parts:
        assert len(rows)
        assert set(rows["split"]) == {"train"}


def test_no_clip_of_a_prior_is_part_of_a_mixture(toy):
    """Sample by sample: each clip of the priors is of files from which no mixture is made, and the other way round."""
    parts = share(toy)
    draw = drawing(toy, parts, batch=6, seconds=SECONDS, snrs=(0.0, 0.0), progress=False)

    def made_of(clip, files):
        """How much of a clip's energy the best-fitting place of a file takes."""
        best = 0.0
        for x in files:
            x, y = (part.double().numpy() for part in (x, clip))
            inner = scipy.signal.correlate(x, y, "valid")
            energy = scipy.signal.correlate(x**2, np.ones_like(y), "valid") * (y**2).sum()
            best = max(best, float((inner**2 / np.maximum(energy, 1e-9)).max()))
        return best

    files = [[toy.read(path) for path in rows["path"]] for rows in parts]
    mixtures, clean, alone = draw(seeded())
    for i in range(2):
        assert made_of(mixtures[i], files[0]) > 0.2
        assert made_of(mixtures[i], files[1]) > 0.2
        assert made_of(clean[i], files[2]) > 0.999
        assert made_of(alone[i], files[3]) > 0.999
        assert made_of(clean[i], files[0]) < 0.999
        assert made_of(alone[i], files[1]) < 0.999


def test_recordings_and_speakers_take_turns(toy):
    rows = pd.DataFrame({"path": list("abcdefg"), "cls": list("yyxxxxx"), "source": [*"1234556"]})
    first, second = unpaired._halves(rows, "source")
    assert sorted(first["source"]) == ["1", "3", "5", "5"]
    assert sorted(second["source"]) == ["2", "4", "6"]


def test_out_of_domain(elsewhere, toy):
    parts = share(elsewhere, "out-of-domain")
    assert set(parts.clean["corpus"]) == {"emodb"}
    assert set(parts.speech["corpus"]) == {"mini-librispeech"}
    with pytest.raises(CorpusError, match="files for clean, of a clean corpus out-of-domain, got none"):
        share(toy, "out-of-domain")


def test_every_prior_has_as_many_minutes(elsewhere):
    for clean in ("in-domain", "out-of-domain", "close-talk"):
        parts = share(elsewhere, clean, minutes=3.9 / 60) if clean == "out-of-domain" else None
        if parts is not None:
            assert len(parts.clean) == 1
    several = share(elsewhere, "out-of-domain", minutes=1.0)
    assert several.clean["seconds"].sum() <= 60


def test_the_same_mixtures_whatever_the_prior(elsewhere):
    one, other = share(elsewhere, "out-of-domain"), share(elsewhere, "out-of-domain", seed=1)
    for part in ("speech", "noise", "alone"):
        assert getattr(one, part).equals(getattr(other, part))


def test_a_corpus_without_noise(toy):
    speech = type(toy)(toy.root, toy.table[toy.table["kind"] == "speech"], toy.origin)
    with pytest.raises(ValueError, match="noise"):
        share(speech)


def test_no_training_speech(toy):
    other = type(toy)(toy.root, toy.table.assign(corpus="other"), toy.origin)
    with pytest.raises(CorpusError, match="expected training speech of mini-librispeech, got none"):
        share(other)


# ------------------------------------------------------------- clips


def test_clips_of_short_files():
    """Speech is filled with silence, noise goes round; a file as long as a clip is that clip."""
    short, whole = torch.arange(1.0, 4), torch.arange(1.0, 9)
    assert Clips([torch.nn.functional.pad(short, (0, 5))], 8).draw(1, seeded())[0].tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert Clips([whole], 8).draw(2, seeded()).tolist() == [whole.tolist()] * 2
    assert Clips([short.repeat(4)], 8, by_length=False).draw(5, seeded())[:, :3].sum(1).tolist() == [6] * 5


def test_longer_speech_comes_more_often():
    files = [torch.zeros(100), torch.ones(900)]
    assert Clips(files, 10).draw(4000, seeded()).mean() == pytest.approx(0.9, abs=0.02)
    assert Clips(files, 10, by_length=False).draw(4000, seeded()).mean() == pytest.approx(0.5, abs=0.03)


def test_snrs_of_the_mixtures():
    speech, noise = (torch.randn(2000, 400, generator=seeded(i)) for i in range(2))
    x = at_snr(speech, 7 * noise, (-5.0, 15.0), seeded())
    snr = 10 * (speech.square().mean(1) / (x - speech).square().mean(1)).log10()
    assert -5.001 < snr.min() < -4.8
    assert 14.8 < snr.max() < 15.001
    assert snr.mean() == pytest.approx(5, abs=0.3)
    assert at_snr(speech, 0 * noise, (0.0, 0.0), seeded()).isfinite().all()
    assert at_snr(0 * speech, noise, (0.0, 0.0), seeded()).isfinite().all()


def test_a_batch(toy):
    """One seed, one batch; mixtures, clean speech and noise, clip by clip of one length."""
    parts = share(toy)
    draw = drawing(toy, parts, batch=3, seconds=SECONDS, snrs=(-5.0, 15.0), progress=False)
    batch = draw(seeded())
    assert batch.shape == (3, 3, 8000)
    assert batch.equal(draw(seeded()))
    assert not batch.equal(draw(seeded(1)))


def test_noise_that_bleeds(toy):
    """The close-talk prior is the same clean speech, and noise 10 to 15 dB below it."""
    parts = share(toy, "close-talk")
    clean = drawing(toy, parts, batch=40, seconds=SECONDS, snrs=(0.0, 0.0), progress=False)
    bled = drawing(toy, parts, batch=40, seconds=SECONDS, snrs=(0.0, 0.0), bleed=(10.0, 15.0), progress=False)
    speech, both = clean(seeded())[1], bled(seeded())[1]
    snr = 10 * (speech.square().mean(1) / (both - speech).square().mean(1)).log10()
    assert 9.99 < snr.min() < 11
    assert 14 < snr.max() < 15.01


def test_held_out_mixtures(toy):
    made = held_out(toy, share(toy), files=5, seconds=1.0, snr_db=3.0)
    torch.testing.assert_close(made.noisy, made.clean + made.noise)
    snr = 10 * (made.clean.square().mean(1) / made.noise.square().mean(1)).log10()
    torch.testing.assert_close(snr, torch.full_like(snr, 3.0), rtol=0, atol=1e-3)
    valid = [toy.read(path) for path in toy.select(kind="speech", split="valid")["path"]]
    best = max(float((x.unfold(0, 16000, 1) @ made.clean[0]).max()) for x in (v / v.norm() for v in valid))
    assert best > 0.5 * float(made.clean[0].norm())  # an excerpt of a whole file has much of its energy
