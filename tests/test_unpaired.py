"""That no pair is ever seen together, and what mixtures, clean clips and noise are made of."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch

from sepriors.lab.corpora import CorpusError
from sepriors.lab.corpora.manifest import recordings
from sepriors.lab.training import unpaired
from sepriors.lab.training.unpaired import drawing, split

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
    parts = split(toy)
    for a, b in combinations(parts, 2):
        assert not set(a["path"]) & set(b["path"])
    assert not set(parts.speech["speaker"]) & set(parts.clean["speaker"])
    assert not set(recordings(parts.noise)) & set(recordings(parts.alone))
    for rows in parts:
        assert len(rows)
        assert set(rows["split"]) == {"train"}


def test_no_clip_of_a_prior_is_part_of_a_mixture(toy):
    """Sample by sample: each clip of the priors is of files from which no mixture is made, and the other way round."""
    parts = split(toy)
    draw = drawing(toy, parts, batch=6, seconds=SECONDS, snrs=(0.0, 0.0), tilt_db=0.0, progress=False)

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
    first, second = unpaired._halves(rows, rows["source"])
    assert sorted(first["source"]) == ["1", "3", "5", "5"]
    assert sorted(second["source"]) == ["2", "4", "6"]


def test_clips_of_one_recording_stay_together(toy):
    """Whatever their files are called: Freesound's number says that they are one."""
    noise = toy.table[(toy.table["kind"] == "noise") & (toy.table["split"] == "train")]
    clips = [noise.assign(path=f"esc_rain_1-{k}-{end}.flac", source=f"{k}-{end}") for k in (7, 8, 9) for end in "AB"]
    parts = split(type(toy)(toy.root, pd.concat([toy.table, *clips], ignore_index=True), toy.origin))
    found = [{path.split("-")[1] for path in part["path"] if "esc_" in path} for part in (parts.noise, parts.alone)]
    assert found[0]
    assert found[1]
    assert not found[0] & found[1]


def test_out_of_domain(elsewhere, toy):
    """The clean corpus is another, of so many minutes at most; the rest is as ever, whatever the seed."""
    parts = split(elsewhere, "out-of-domain")
    assert set(parts.clean["corpus"]) == {"emodb"}
    assert set(parts.speech["corpus"]) == {"mini-librispeech"}
    assert len(split(elsewhere, "out-of-domain", minutes=3.9 / 60).clean) == 1
    assert len(split(elsewhere, "out-of-domain", minutes=1.0).clean) == len(parts.clean) > 1
    other = split(elsewhere, "out-of-domain", seed=1)
    assert all(getattr(parts, part).equals(getattr(other, part)) for part in ("speech", "noise", "alone"))
    with pytest.raises(CorpusError, match="files for clean, of a clean corpus out-of-domain, got none"):
        split(toy, "out-of-domain")


def test_what_is_missing_has_a_name(toy):
    with pytest.raises(CorpusError, match="expected training noise of any class, got none"):
        split(type(toy)(toy.root, toy.table[toy.table["kind"] == "speech"], toy.origin))
    with pytest.raises(CorpusError, match=r"expected matched speech of .*, got none"):
        split(type(toy)(toy.root, toy.table.assign(corpus="other"), toy.origin))


# ------------------------------------------------------------- clips


def test_noise_that_bleeds(toy):
    """The close-talk prior is the same clean speech, and noise 10 to 15 dB below it."""
    parts = split(toy, "close-talk")
    clean = drawing(toy, parts, batch=40, seconds=SECONDS, snrs=(0.0, 0.0), progress=False)
    bled = drawing(toy, parts, batch=40, seconds=SECONDS, snrs=(0.0, 0.0), bleed=(10.0, 15.0), progress=False)
    batch, (_, both, _) = clean(seeded()), bled(seeded())
    assert batch.shape == (3, 40, 8000)
    assert batch.equal(clean(seeded()))
    assert not batch.equal(clean(seeded(1)))
    speech = batch[1]
    snr = 10 * (speech.square().mean(1) / (both - speech).square().mean(1)).log10()
    assert 9.99 < snr.min() < 11
    assert 14 < snr.max() < 15.01
