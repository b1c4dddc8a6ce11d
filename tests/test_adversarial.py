"""What both sides pay at their known optima, who moves whom, and what it costs to rebuild a mixture."""

import math

import pytest
import torch

from sepriors.lab.training import adversarial
from sepriors.lab.training.adversarial import AdversarialLoss, DiscriminatorOutput, LossWeights, spectral_distance
from sepriors.priors import Codec
from sepriors.priors.codec import Pair


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def game(**choices):
    net = Codec(channels=(8, 8, 8, 16), width=8)
    net.start(torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    torch.manual_seed(0)
    return AdversarialLoss(net, **{"channels": 2} | choices)


def says(value, shape=(2, 3)):
    return [DiscriminatorOutput(torch.full(shape, value), [])]


# ------------------------------------------------------------- losses


def test_adversaries_pay_least_when_they_know():
    assert float(adversarial.discriminator_loss(says(1.0), says(0.0))) == 0
    for real, fake in ((0.5, 0.5), (0.9, 0.0), (1.0, 0.1), (1.1, 0.0)):
        paid = float(adversarial.discriminator_loss(says(real), says(fake)))
        assert paid == pytest.approx((1 - real) ** 2 + fake**2, rel=1e-5)


def test_a_generator_pays_nothing_when_believed():
    assert float(adversarial.generator_loss(says(1.0))) == 0
    assert float(adversarial.generator_loss(says(0.0))) == 1
    assert float(adversarial.generator_loss(says(0.0) + says(1.0))) == 0.5  # mean over discriminators


def test_features_that_match():
    h = [normal(3, 4, 5, 6), normal(3, 2, 7)]
    same = [DiscriminatorOutput(h[0], h)]
    elsewhere = [DiscriminatorOutput(h[0], [x.flip(0).roll(2, -1) for x in h])]  # the same values elsewhere
    louder = [DiscriminatorOutput(h[0], [2 * x for x in h])]
    for paired in (True, False):
        assert float(adversarial.feature_matching(same, same, paired)) == 0
        assert float(adversarial.feature_matching(same, louder, paired)) > 0.3
    assert float(adversarial.feature_matching(same, elsewhere, True)) > 0.5
    assert float(adversarial.feature_matching(same, elsewhere, False)) < 1e-6


def test_a_mixture_rebuilt_exactly_costs_least():
    """Nothing but what 30 dB are worth, where the ratio stops counting."""
    x, noise, weights = normal(2, 8000), normal(2, 8000, seed=1), LossWeights()
    assert float(spectral_distance(x, x)) == 0
    aways = (1e-3, 0.03, 0.1, 0.3, 1.0)
    costs = [float(weights.total(adversarial.reconstruction_loss(x, x + away * noise), 0.0)) for away in aways]
    assert costs[0] == pytest.approx(-30 * weights.si_sdr, abs=0.1)
    assert costs == sorted(costs)


# ------------------------------------------------------------- discriminators


@pytest.mark.parametrize("length", [1, 100, 8000])
def test_any_length(length):
    for judge in adversarial.Ensemble((256,), (2, 5), 2):
        judged = judge(normal(3, length))
        assert len(judged.verdict) == 3
        assert judged.verdict.isfinite().all()
        assert all(len(h) == 3 for h in judged.features)


def test_an_ensemble_is_deaf_to_level():
    judges = adversarial.Ensemble((256,), (3,), 2)
    for a, b in zip(judges(normal(2, 4000)), judges(1e-3 * normal(2, 4000)), strict=True):
        torch.testing.assert_close(a.verdict, b.verdict, rtol=1e-3, atol=1e-5)
    assert all(judged.verdict.isfinite().all() for judged in judges(torch.zeros(1, 4000)))


# ------------------------------------------------------------- the game


def gradients(made, corpora, weights, done=1.0):
    made.zero_grad()
    made.cost(corpora, weights, done).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}


def of(part, found):
    return torch.cat(
        [g.flatten() for name, g in found.items() if name.startswith(part) and g is not None] or [torch.zeros(1)]
    )


def test_neither_side_pays_for_the_other():
    """Adversaries learn the same whatever the generator pays; the generator learns the same whatever they do."""
    made, corpora = game(), normal(3, 2, 4000)
    base = gradients(made, corpora, LossWeights())
    nothing = dict.fromkeys(set(LossWeights.__dataclass_fields__) - {"clean", "noise", "mixture", "warm"}, 0.0)
    kinder = gradients(made, corpora, LossWeights(**nothing))
    for part in ("clean", "noise", "mixture"):
        torch.testing.assert_close(of(part, base), of(part, kinder))
        assert of(part, base).abs().max() > 0
    assert not of("generator", kinder).any()
    alone = gradients(made, corpora, LossWeights(adversarial=0.0, matching=0.0))
    without = gradients(made, corpora, LossWeights(clean=0.0, noise=0.0, mixture=0.0))
    torch.testing.assert_close(of("generator", alone), of("generator", without))


@pytest.mark.parametrize("weight", ["clean", "noise", "mixture"])
def test_each_corpus_moves_both_branches(weight):
    """They divide one sequence, so what is wrong with one is wrong with the other."""
    none = dict.fromkeys(set(LossWeights.__dataclass_fields__) - {"adversarial", "warm"}, 0.0)
    found = gradients(game(), normal(3, 2, 4000), LossWeights(**none | {weight: 1.0}))
    for part in ("encoder", "speech", "noise", "decoder"):
        assert of(f"generator.{part}", found).abs().max() > 0


def test_the_cost_is_the_weighted_sum_of_named_terms():
    """Each by the weight of its name; those of adversaries by their corpus's too, and by how far they have come in."""
    made, corpora = game(), normal(3, 2, 4000)
    terms = {name: float(term.detach()) for name, term in made.terms(corpora).items()}
    weights = LossWeights(energy=0.1, warm=0.5, mixture=0.3, matching=0.7)
    ensembles = {"clean": 1.0, "noise": 1.0, "mixture": 0.3}
    fixed = sum(terms[f"{corpus}/discriminator"] for corpus in ensembles)
    fixed += sum(getattr(weights, name) * term for name, term in terms.items() if "/" not in name)
    late = sum(w * (terms[f"{name}/adversarial"] + 0.7 * terms[f"{name}/matching"]) for name, w in ensembles.items())
    for done, share in ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0)):
        assert float(made.cost(corpora, weights, done).detach()) == pytest.approx(fixed + share * late, rel=1e-5)
    assert len(terms) == 15
    assert made.terms(corpora).keys() - made.terms(corpora, cycle=False).keys() == {"cycle", "cycle_spectra"}


def test_what_a_part_explains():
    s, n = normal(4, 5000), 0.5 * normal(4, 5000, seed=1)
    torch.testing.assert_close(adversarial.explained(s + n, s), torch.full((4,), 0.8), rtol=0.05, atol=0)
    torch.testing.assert_close(adversarial.explained(s + n, 7 * n), torch.full((4,), 0.2), rtol=0.15, atol=0)
    assert (adversarial.explained(s, normal(4, 5000, seed=2)) < 0.01).all()
    assert not adversarial.explained(s, 0 * s).any()


def test_what_goes_astray():
    """Half of everything before the branches have learned; nothing where all goes where it belongs."""
    made, x = game(), normal(2, 4000)
    for branch in (made.generator.speech, made.generator.noise):
        branch.last.weight.data.zero_()
        branch.last.bias.data.zero_()
    assert float(made.leakage(x, 0).detach()) == pytest.approx(0.25)  # of energy: half the amplitude
    made.generator.speech.last.bias.data.fill_(30.0)
    assert float(made.leakage(x, 0).detach()) == pytest.approx(0, abs=1e-6)
    assert float(made.leakage(x, 1).detach()) == pytest.approx(1)
    assert float(made.leakage(0 * x, 1).detach()) <= 1


class Answers(torch.nn.Module):
    """Separates as it is told, and keeps what it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def separate(self, x):
        self.asked.append(x)
        return Pair(*self.answer(x))


def test_separating_again():
    """-30 dB, where the ratio stops counting, if the speech comes back; 0 dB if it is taken for noise, all of it."""
    s, n = normal(2, 3, 4000).double()
    level = (s + n).square().mean(-1, keepdim=True).sqrt()
    decibels, spectra = LossWeights(cycle=1.0, cycle_spectra=0.0), LossWeights(cycle=0.0, cycle_spectra=2.0)
    made = game()

    def costs(found):
        made.generator = Answers(lambda x: (found, x - found))
        return [float(weights.total(made.cycle_loss(s, n), 0.0)) for weights in (decibels, spectra)]

    assert costs(s / level) == pytest.approx([-30, 0], abs=1e-3)
    torch.testing.assert_close(made.generator.asked[0], (s + n) / level)
    high = [float(adversarial.emphasised(x).square().sum()) for x in (s, s + n)]
    assert costs(0 * s)[0] == pytest.approx(10 * math.log10(high[0] / high[1] + 1e-3), abs=0.05)
    assert costs(0 * s)[1] == pytest.approx(2 * float(spectral_distance(s / level, 0 * s)))


def test_what_is_separated_again_is_never_of_one_recording():
    """Half of the mixtures are of a corpus's speech, half of a corpus's noise; the rest of each is an estimate.

    So no clean clip meets a clip of noise, and no estimate of speech the estimate of noise that it was divided from.
    """
    s, n, clean, noise = normal(4, 6, 4000)
    clean, noise = adversarial.unit(clean), adversarial.unit(noise)
    speech, rest = adversarial.remix(3 * s, n, clean, noise)
    level = 3 * s.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(speech, torch.cat([(level * clean)[:3], 3 * s[3:]]))
    torch.testing.assert_close(rest[:3], n[[5, 0, 1]])
    shape = torch.cosine_similarity(rest[3:, None], noise[None], dim=-1)
    torch.testing.assert_close(shape[:, 3:].diagonal(), torch.ones(3))
    torch.testing.assert_close(rest[3:].square().mean(-1), n[[2, 3, 4]].square().mean(-1))


def test_high_frequencies_count():
    """A tone at 100 Hz against one at 4 kHz, by the gain of the filter; and a constant falls by 26 dB."""
    t = torch.arange(1600, dtype=torch.float64) / 16000
    low, high = (adversarial.emphasised((2 * math.pi * f * t).sin()).square().mean() for f in (100, 4000))
    gain = [1 + 0.95**2 - 2 * 0.95 * math.cos(2 * math.pi * f / 16000) for f in (100, 4000)]
    assert float(high / low) == pytest.approx(gain[1] / gain[0], rel=0.02)
    torch.testing.assert_close(adversarial.emphasised(torch.ones(5)), torch.full((4,), 0.05))


@pytest.mark.parametrize("silent", [0, 1, 2, slice(None)])
def test_silence_in_a_corpus(silent):
    made, corpora = game(), normal(3, 2, 4000)
    corpora[silent] = 0
    cost = made.cost(corpora, LossWeights(energy=0.1), 1.0)
    cost.backward()
    assert cost.isfinite()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
