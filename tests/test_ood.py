"""Scores of clips: identities by construction, and the area under the curve against scipy's rank statistic."""

import pytest
import torch
from scipy.stats import mannwhitneyu

from sepriors.lab import ood, sounds
from sepriors.lab.claims import ClaimError
from sepriors.signal.stft import STFT

EACH = [str(i) for i in range(40)]


def draws(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_level_normalised_clips_have_the_level_and_their_shape():
    P = draws((3, 5, 7)).square()
    Q = ood.level_normalised(P, 2.5)
    torch.testing.assert_close(Q.mean((-2, -1)), torch.full((3,), 2.5, dtype=P.dtype))
    torch.testing.assert_close(Q / P, (Q / P)[:, :1, :1].expand_as(P))
    assert ood.level_normalised(torch.zeros(1, 5, 7)).eq(0).all()


def test_typicality_is_largest_at_the_entropy_and_looks_at_the_middle():
    logp = torch.tensor([[100.0, -5.0, -5.0, 100.0]])
    assert ood.typicality(logp, 5.0, 2) == 0
    assert ood.typicality(logp, 4.0, 2) == ood.typicality(logp, 6.0, 2) == -1
    for frames in (0, 5):
        with pytest.raises(ValueError, match="1 to 4 frames"):
            ood.typicality(logp, 5.0, frames)


def test_the_likelihood_ratio_forgets_what_both_models_say():
    a, b, common = draws((4, 9)), draws((4, 9), 1), draws((4, 9), 2)
    torch.testing.assert_close(ood.likelihood_ratio(a + common, b + common), ood.likelihood_ratio(a, b))


def test_complexity_takes_back_what_the_volume_gives():
    """A density carried along with the clip gains 2 F log 2 nats at half the amplitude, FLAC one bit a sample less."""
    x = 0.2 * draws((2, 16000)).clamp(-4, 4)
    stft = STFT(512, 128)

    def of(x, scale):
        P = stft(x).abs().square()
        V = torch.full_like(P, scale**2)
        logp = -(torch.pi * V).log().sum(-2) - (P / V).sum(-2)
        return ood.complexity_corrected(logp, ood.flac_bits(x), stft.bins)

    torch.testing.assert_close(of(0.5 * x, 0.5), of(x, 1.0), atol=0.02, rtol=0)


def test_waic_of_models_that_agree_is_their_mean_and_never_more():
    logp = draws((4, 6))
    torch.testing.assert_close(ood.waic(logp.expand(3, 4, 6)), logp.mean(-1))
    apart = torch.stack([logp - 1, logp + 1])
    torch.testing.assert_close(ood.waic(apart), logp.mean(-1) - 1)
    with pytest.raises(ValueError, match="two models"):
        ood.waic(logp[None])


def test_auroc_is_the_rank_statistic_with_ties_counted_half():
    a, b = (draws((40,)) + 0.7).round(decimals=0), draws((40,), 1).round(decimals=0)
    area = ood.auroc(a, b, groups=(EACH, EACH))
    assert area.value == pytest.approx(mannwhitneyu(a, b).statistic / 1600, abs=1e-12)
    assert area.low < area.value < area.high
    assert ood.auroc(b, a, groups=(EACH, EACH)).value == pytest.approx(1 - area.value)
    assert ood.auroc(a + 100, b, groups=(EACH, EACH))[:3] == (1, 1, 1)


def test_auroc_resamples_groups():
    a, b = draws((40,)) + 0.5, draws((40,), 1)
    many = ood.auroc(a, b, groups=(EACH, EACH))
    speakers = ["a" if x > 0.5 else "b" for x in a]  # the speakers differ, so their number is what counts
    few = ood.auroc(a, b, groups=(speakers, EACH))
    assert few.high - few.low > 1.5 * (many.high - many.low)
    for groups in ((["a"] * 40, ["n"] * 40), (["a"] * 40, EACH), (EACH, ["n"] * 40)):
        alone = ood.auroc(a, b, groups=groups)
        assert alone.value == many.value
        assert not alone.has_interval  # of one speaker nobody knows how others would do
        assert alone.why == "one group"


def test_auroc_refuses_what_it_cannot_judge():
    a = draws((40,))
    with pytest.raises(ClaimError, match="NaN"):
        ood.auroc(torch.full((40,), torch.nan), a, groups=(EACH, EACH))
    with pytest.raises(ClaimError, match="40 clips, got 2"):
        ood.auroc(a, a, groups=(["a", "b"], EACH))


NOISES = [sounds.white, sounds.pink, sounds.tones, sounds.silence]


@pytest.mark.parametrize("make", NOISES, ids=lambda f: f.__name__)
def test_a_sound_has_its_shape_and_comes_back_with_its_seed(make):
    a, b, c = (make(3, 12345, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert a.shape == (3, 12345)
    assert a.isfinite().all()
    assert a.equal(b)
    assert not a.equal(c)


def test_pink_noise_falls_by_three_decibels_an_octave():
    x = sounds.pink(20, 64000, torch.Generator().manual_seed(0))
    P = torch.fft.rfft(x).abs().square().mean(0)
    f = torch.fft.rfftfreq(64000, 1 / 16000)
    octaves = torch.stack([P[(f >= lo) & (f < 2 * lo)].mean().log2() for lo in (100, 200, 400, 800, 1600, 3200)])
    torch.testing.assert_close(octaves.diff(), torch.full((5,), -1.0), atol=0.12, rtol=0)


def test_a_whisper_keeps_the_level_and_loses_the_pitch():
    seconds = torch.arange(16000) / 16000
    voice = sum(torch.sin(2 * torch.pi * 150 * k * seconds) / k for k in range(1, 30))
    whisper = sounds.whispered(voice, torch.Generator().manual_seed(0))
    torch.testing.assert_close(whisper.square().mean(), voice.square().mean())

    def periodicity(x):  # correlation with itself a pitch period (107 samples) later
        return float((x[:-107] * x[107:]).sum() / x.square().sum())

    assert periodicity(voice) > 0.9
    assert abs(periodicity(whisper)) < 0.3


def test_at_level_matches_power_and_leaves_silence():
    x, like = draws((2, 100)), 3 * draws((2, 100), 1)
    torch.testing.assert_close(sounds.at_level(x, like).square().mean(-1), like.square().mean(-1))
    assert sounds.at_level(torch.zeros(1, 9), torch.ones(1, 9)).eq(0).all()


def test_babble_gives_each_talker_the_same_power():
    x = draws((2, 1, 100))
    torch.testing.assert_close(sounds.babble(x), sounds.babble(x * torch.tensor([9.0, 0.1])[:, None, None]))
