"""Training again gives the same weights, with a card that tells the truth."""

import math
import tomllib
from dataclasses import replace
from importlib import resources
from itertools import pairwise

import pytest
import torch
from conftest import drawn_descript, drawn_flow
from test_codec import published

from sepriors import STFT, weights
from sepriors.inference import nmf
from sepriors.lab import bench, recipes
from sepriors.lab.corpora import Corpora, CorpusError, bench_set
from sepriors.lab.training import train, unpaired
from sepriors.lab.training.adversarial import AdversarialLoss
from sepriors.lab.training.simulator import Clips
from sepriors.methods import Separator
from sepriors.priors import BSSE, MAF, RVAE, SSL, VAE, Codec, Denoiser, Descript, WaveGlow
from sepriors.protocols import Denoised
from sepriors.signal.gaussian import is_divergence
from sepriors.signal.rng import generators

SHIPPED = dict(recipes.RECIPES)  # whole; the tests below have them quick
NMFS = [name for name, made in recipes.RECIPES.items() if isinstance(made, recipes.NMFRecipe)]
FLOWS = [name for name, made in recipes.RECIPES.items() if isinstance(made, recipes.FlowRecipe)]
VAES = [name for name, made in recipes.RECIPES.items() if isinstance(made, recipes.VAERecipe)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(recipes, "RECIPES", {name: made.smoke() for name, made in SHIPPED.items()})
    monkeypatch.setattr(unpaired, "ELSEWHERE", ["mini-librispeech"])  # here there is no other speech
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name, made in recipes.RECIPES.items():
        if hasattr(made, "noises"):  # of the classes that the corpus has
            monkeypatch.setitem(recipes.RECIPES, name, replace(made, noises=("street",)))


class Watched(Corpora):
    """A corpus that keeps a list of what was read."""

    def __init__(self, *about):
        super().__init__(*about)
        self.seen = []

    def read(self, row):
        self.seen.append(row)
        return super().read(row)

    def decoded(self, rows, **kw):
        self.seen += list(rows["path"])
        return Corpora(self.root, self.table, self.origin).decoded(rows, **kw)


class Live(Corpora):
    """A corpus whose `read` a test changes: nothing of it is taken from the cache."""

    def decoded(self, rows, **kw):
        return [self.read(path) for path in rows["path"]]


@pytest.fixture
def watched(toy):
    return Watched(toy.root, toy.table, "folder")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_same_file_twice(toy, tmp_path, name):
    """To the last byte, whatever the global seed; another seed, another file."""
    files = []
    for i, seed in enumerate((0, 0, 1)):
        torch.manual_seed(i)
        learned = train.train(name, toy, seed=seed, progress=False)
        assert learned.facts["seed"] == seed
        files.append(tmp_path / f"{i}.safetensors")
        weights.save(files[-1], learned.tensors, learned.config)
    first, second, other = (path.read_bytes() for path in files)
    assert first == second
    assert first != other


@pytest.mark.parametrize("name", NMFS)
def test_bases(toy, name):
    W, config, facts = train.train(name, toy, progress=False)
    made = recipes.RECIPES[name]
    assert W["W"].shape == (made.stft.bins, made.rank)
    torch.testing.assert_close(W["W"].sum(0), torch.ones(made.rank))
    assert config["rank"] == made.rank
    assert facts["minutes"] <= 0.5 or facts["files"] == 1
    assert facts["corpus"] == {"speech": "mini-librispeech", "noise": "noise", "white": "drawn white noise"}[made.kind]


def test_training_lowers_the_divergence(toy, monkeypatch):
    """Bases that saw more updates explain the files of a speaker that training did not see better."""
    P = STFT(512, 128)(toy.read("speech/test/20-0.flac")).abs().square()[None]
    values = []
    for iterations in (1, 10, 40):
        made = replace(recipes.RECIPES["nmf-speech-257"], iterations=iterations)
        monkeypatch.setitem(recipes.RECIPES, "nmf-speech-257", made)
        model = nmf.init(P, 40, generators(0, 1), train.train("nmf-speech-257", toy, progress=False).tensors["W"])
        for _ in range(50):
            model = nmf.update(model, P[None], bases=False)
        values.append(float(is_divergence(P, model.variance)))
    assert values[0] > values[1] > values[2]


def test_only_training_files_and_only_loud_frames_of_speech(watched):
    made = recipes.RECIPES["nmf-speech"]
    frames, facts = recipes.spectra(made, watched, 0, False)
    assert len(watched.seen) == facts["files"] == 6
    assert all(path.startswith("speech/train/") for path in watched.seen)
    by_hand = []
    for path in watched.seen:
        P = made.stft(Corpora.read(watched, path)).abs().square()
        level = 10 * P.sum(0).log10()
        by_hand.append(P[:, level > level.max() - made.range_db].mT)
        assert len(by_hand[-1]) < P.shape[-1]
    assert frames.equal(torch.cat(by_hand))


def test_a_peak_of_one_whatever_the_level_of_a_file(toy):
    made = recipes.RECIPES["vae"]

    class Soft(Live):
        def read(self, row):
            return 0.125 * super().read(row)

    frames = recipes.spectra(made, toy, 0, False, peak=True)[0]
    assert frames.equal(recipes.spectra(made, Soft(toy.root, toy.table, "folder"), 0, False, peak=True)[0])
    x = toy.read("speech/valid/10-0.flac")
    one = Corpora(toy.root, toy.table[toy.table["path"] == "speech/valid/10-0.flac"], "folder")
    P = made.stft(x / x.abs().max()).abs().square().mT
    got = recipes.spectra(made, one, 0, False, peak=True, split="valid")[0]
    assert got.equal(P[10 * P.sum(-1).log10() > 10 * P.sum(-1).max().log10() - made.range_db])
    assert 0 < len(got) < len(P)


def test_minutes_are_a_limit_but_one_file_is_always_taken(toy):
    made = replace(recipes.RECIPES["nmf-speech"], minutes=5 / 60)
    assert recipes.spectra(made, toy, 0, False)[1]["files"] == 2  # of 2 s each
    made = replace(made, minutes=1 / 60)
    assert recipes.spectra(made, toy, 0, False)[1]["files"] == 1


def test_white_noise_is_at_several_powers():
    made = recipes.NMFRecipe(4, STFT(64, 32), kind="white", minutes=1.0)
    P, facts = recipes.nmf._white(made, 0)
    assert facts["files"] == 6
    level = 10 * P[0].reshape(33, 6, -1).mean((0, 2)).log10()
    torch.testing.assert_close(level.diff(), torch.full((5,), 8.0), atol=0.2, rtol=0)


def test_a_card_is_entered_and_read_again(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    toy.table["licence"] = 'CC BY 4.0 "as is" \\ é'
    other = {"file": "o.safetensors", "big": True, "rate": 0.5, "text": 'a "b"'}
    train._enter(tmp_path / "cards.toml", "other", other)
    path = train.write_card("nmf-speech-257", toy, seed=3, progress=False)
    assert path == tmp_path / "nmf-speech-257.safetensors"
    cards = weights.cards()
    assert list(cards) == ["nmf-speech-257", "other"]
    assert cards["other"] == other
    card = cards["nmf-speech-257"]
    assert card["sha256"] == weights.sha256(path)
    assert card["bytes"] == path.stat().st_size
    assert card["licence"] == 'weights MIT; trained on CC BY 4.0 "as is" \\ é'
    assert card["command"] == "sepriors train nmf-speech-257 --force --seed 3"
    shipped = tomllib.loads((resources.files("sepriors.cards") / "cards.toml").read_text("utf-8"))
    assert card.keys() == shipped["nmf-speech-257"].keys()
    got = weights.load("nmf-speech-257")
    assert got.tensors["W"].equal(train.train("nmf-speech-257", toy, seed=3, progress=False).tensors["W"])
    assert got.config == {"stft": {"n_fft": 512, "hop": 128, "sample_rate": 16000}, "rank": 40}

    train.write_card("nmf-white-257", toy, progress=False)
    cards = tomllib.loads((tmp_path / "cards.toml").read_text("utf-8"))
    assert list(cards) == ["nmf-speech-257", "nmf-white-257", "other"]
    assert cards["nmf-speech-257"] == card
    assert cards["nmf-white-257"]["licence"] == "MIT"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors", ".safetensors", ".toml"]


def test_a_new_folder_and_a_spoiled_file_of_cards(toy, tmp_path):
    path = train.write_card("nmf-noise-257", toy, folder=tmp_path / "new", progress=False)
    assert tomllib.loads((path.parent / "cards.toml").read_text())["nmf-noise-257"]["corpus"] == "noise"
    (tmp_path / "new" / "cards.toml").write_text("[half")
    with pytest.raises(tomllib.TOMLDecodeError):
        train.write_card("nmf-noise-257", toy, folder=tmp_path / "new", progress=False)
    assert (tmp_path / "new" / "cards.toml").read_text() == "[half"


def test_unknown_names_and_corpora_without_the_data(toy):
    with pytest.raises(ValueError, match="no recipe for weights 'nmf-spech'; did you mean nmf-speech"):
        recipes.recipe("nmf-spech")
    bare = Corpora(toy.root, toy.table[toy.table["kind"] == "speech"], "folder")
    with pytest.raises(CorpusError, match="expected train files of noise, got none"):
        train.train("nmf-noise-257", bare, progress=False)
    late = Corpora(toy.root, toy.table[(toy.table["kind"] == "speech") | (toy.table["split"] == "test")], "folder")
    with pytest.raises(CorpusError, match="expected train files of noise, got none"):
        train.train("nmf-noise-257", late, progress=False)


def test_every_shipped_card_has_a_recipe():
    assert weights.cards().keys() <= recipes.RECIPES.keys()
    for name in weights.cards():
        made = SHIPPED[name]
        assert weights.cards()[name]["about"] == made.about
    assert recipes.RECIPES["nmf-speech"].about == "IS-NMF bases of speech, 64 of 513 bins"
    assert recipes.RECIPES["vae-257"].about == "frame-wise VAE of speech, 257 bins, 32 latent variables"


# ------------------------------------------------------------- autoencoders


def small(**changes):
    return replace(recipes.VAERecipe(STFT(64, 32), latent=2, hidden=8, epochs=5, batch=16), **changes)


def speech(toy, split="train", **changes):
    return recipes.spectra(small(**changes), toy, 0, False, peak=True, split=split)[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fresh(kind=VAE):
    made = kind(STFT(64, 32), 2, 8)
    for i, p in enumerate(made.parameters()):
        torch.nn.init.uniform_(p, -0.3, 0.3, generator=seeded(i))
    return made


@pytest.mark.parametrize("name", VAES)
def test_a_vae(watched, name):
    made = recipes.RECIPES[name]
    learned = train.train(name, watched, progress=False)
    got = VAE.from_weights(weights.Weights(learned.tensors, learned.config))
    assert {p.dtype for p in learned.tensors.values()} == {torch.float16}
    assert (got.stft, got.latent, got.hidden) == (made.stft, made.latent, made.hidden)
    assert all(p.isfinite().all() for p in got.parameters())
    splits = {path.split("/")[1] for path in watched.seen}
    if made.background:
        assert splits == {"train"}
        assert learned.facts["corpus"] == "noise and mini-librispeech"
        assert learned.facts["files"] == "2 and 6"
        assert "valid_elbo" not in learned.facts
    else:
        assert splits == {"train", "valid"}
        assert learned.facts["corpus"] == "mini-librispeech"
        assert learned.facts["files"] == 6
        frames = recipes.spectra(made, watched, 0, False, peak=True, split="valid")[0]
        (bound,) = learned.facts["valid_elbo"]
        assert abs(bound / recipes.vae.mean_elbo(got, frames) - 1) < 1e-4  # what half precision takes


def test_an_ensemble_has_one_recipe_and_many_seeds():
    shipped = recipes.RECIPES["vae"]
    for i in (1, 2, 3):
        assert recipes.RECIPES[f"vae-seed{i}"] == replace(shipped, seed=i)


def test_members_of_an_ensemble_differ(toy):
    one, two = (train.train(name, toy, progress=False).tensors for name in ("vae-seed1", "vae-seed2"))
    assert not any(one[name].equal(two[name]) for name in one)


def test_training_raises_the_bound(toy):
    """On speakers that it has not seen, epoch after epoch; the curve is that of the VAE it returns."""
    frames, valid = speech(toy), speech(toy, "valid")
    start = fresh()
    untrained = recipes.vae.mean_elbo(start, valid)
    got, curve = recipes.vae.fit_vae(start, frames, valid, small(epochs=25, batch=64), seeded(), progress=False)
    assert len(curve) == 5
    assert all(a + 10 < b for a, b in pairwise([untrained, *curve]))
    assert curve[-1] == recipes.vae.mean_elbo(got, valid)


def test_the_first_of_all_averages_is_the_first_step(toy):
    """And the start is forgotten: after two steps the average lies halfway between the two."""
    frames = speech(toy)[:16]
    states = []

    class Kept(VAE):
        def elbo(self, P, noise):
            states.append([p.detach().clone() for p in self.parameters()])
            return super().elbo(P, noise)

    made = fresh(Kept)
    got, curve = recipes.vae.fit_vae(made, frames, None, small(epochs=2, learning_rate=10.0), seeded(), progress=False)
    assert curve == []
    assert len(states) == 2  # before the first and before the second step
    for average, first, second in zip(got.parameters(), states[1], made.parameters(), strict=True):
        torch.testing.assert_close(average, (first + second) / 2)
        assert (first - second).abs().max() > 0.01


def test_the_bound_of_a_frame_is_the_vaes(toy):
    made, frames = fresh(), speech(toy)[:50]
    noise = torch.randn(1, 1, 2, 50, generator=generators(0, 1)[0])
    with torch.no_grad():
        assert recipes.vae.mean_elbo(made, frames) == float(made.elbo(frames.mT[None], noise).mean())
    assert recipes.vae.mean_elbo(made, frames) == recipes.vae.mean_elbo(made, frames)


def test_too_few_frames(toy):
    with pytest.raises(CorpusError, match="expected a batch of 16 frames at least, got 15 frames"):
        recipes.vae.fit_vae(fresh(), speech(toy)[:15], None, small(), seeded(), progress=False)


def test_a_corpus_without_validation_gives_no_curve(toy):
    bare = Corpora(toy.root, toy.table[toy.table["split"] == "train"], "folder")
    assert "valid_elbo" not in train.train("vae-257", bare, progress=False).facts


def test_each_frame_is_at_a_level_of_its_own_within_bounds():
    """Uniform in decibels; the shape of a spectrum stays, and each epoch draws again."""
    frames = torch.rand(4000, 33, generator=seeded()) + 0.1
    recipe = small(level_db=10.0, epochs=2, batch=2000)
    levels = []
    for P in recipes.vae._batches(frames, recipe, seeded(1)):
        shape = P[0] / P[0].sum(0)
        rows = torch.cdist(shape.mT, frames / frames.sum(-1, keepdim=True)).argmin(-1)
        torch.testing.assert_close(shape.mT, frames[rows] / frames[rows].sum(-1, keepdim=True))
        levels.append(10 * (P[0].sum(0) / frames[rows].sum(-1)).log10())
    levels = torch.cat(levels)
    assert len(levels) == 8000
    assert -10 <= levels.min() < -9.9
    assert 9.9 < levels.max() <= 10
    assert abs(levels.mean()) < 4 * 10 / math.sqrt(3 * 8000)
    torch.testing.assert_close(levels.std(), torch.tensor(10 / math.sqrt(3)), rtol=0.02, atol=0)


def test_an_epoch_takes_each_frame_once_and_leaves_out_what_fills_no_batch():
    frames = torch.arange(1.0, 104.0)[:, None].expand(-1, 33)
    batches = [P[0, 0] for P in recipes.vae._batches(frames, small(level_db=0.0, epochs=2, batch=20), seeded())]
    assert [len(b) for b in batches] == [20] * 10
    first, second = torch.cat(batches[:5]), torch.cat(batches[5:])
    for epoch in (first, second):
        assert len(epoch.unique()) == 100
    assert not first.equal(second)


@pytest.mark.parametrize("share", [0.0, 1 / 3, 1.0])
def test_a_share_of_the_bins_is_exchanged(share):
    N, F = 500, 257
    P = torch.rand(N, F, generator=seeded(), dtype=torch.float64)
    kept = P.clone()
    got = recipes.vae.exchange_bins(P, share, seeded(1))
    assert P.equal(kept)
    expected = share * (1 - 1 / F)  # a bin may be exchanged for itself
    assert abs(float((got != P).double().mean()) - expected) <= 4 * math.sqrt(expected * (1 - expected) / (N * F))
    assert (got[:, :, None] == P[:, None]).any(-1).all()  # each from a bin of the same frame
    assert (got != P).any(0).all() == (share > 0)


def test_what_a_background_learns_from(toy, monkeypatch):
    """All frames of noise, and as many of speech with a third of their bins exchanged."""
    given = {}

    def seen(made, frames, valid, *rest):
        given["frames"], given["valid"] = frames, valid
        return made, []

    monkeypatch.setattr(recipes.vae, "fit_vae", seen)
    made = recipes.RECIPES["vae-background"]
    made.learn(toy, 0, False)
    noise = recipes.spectra(replace(made, kind="noise", select={}), toy, 0, False, peak=True)[0]
    clean = recipes.spectra(made, toy, 0, False, peak=True)[0]
    assert given["valid"] is None
    assert given["frames"][: len(noise)].equal(noise)
    speech = given["frames"][len(noise) :]
    assert len(speech) == min(len(noise), len(clean))
    origin = (speech[:, None] == clean).double().mean(-1)  # the share of bins that each has from each
    assert (origin.amax(-1) - 2 / 3).abs().max() < 5 * math.sqrt(2 / 9 / made.stft.bins)
    assert len(origin.argmax(-1).unique()) == len(speech)


def test_the_cards_of_autoencoders(toy, tmp_path):
    toy.table["licence"] = toy.table["kind"].map({"speech": "CC BY 4.0", "noise": "CC0"})
    for name in ("vae-257", "vae-background"):
        path = train.write_card(name, toy, folder=tmp_path, progress=False)
        card = tomllib.loads((tmp_path / "cards.toml").read_text("utf-8"))[name]
        assert card["sha256"] == weights.sha256(path)
        shipped = tomllib.loads((resources.files("sepriors.cards") / "cards.toml").read_text("utf-8"))
        assert card.keys() == shipped[name].keys()
        if name == "vae-257":
            assert card["licence"] == "weights MIT; trained on CC BY 4.0"
            assert len(card["valid_elbo"]) == 1
            assert isinstance(card["valid_elbo"][0], float)
            assert len(shipped[name]["valid_elbo"]) == 20 // 5
        else:
            assert card["licence"] == "weights MIT; trained on CC BY 4.0, CC0"


# ------------------------------------------------------------- recurrent autoencoders


def recurrent(**changes):
    made = recipes.RVAERecipe(STFT(64, 32), latent=2, hidden=4, steps=4, batch=40, frames=30)
    return replace(made, **changes)


def by_hand(recipe, x):
    """Power of a file at a peak of 1, and which frames are loud; from its first loud frame to its last."""
    P = recipe.stft(x / x.abs().max()).abs().square()
    level = 10 * P.sum(0).log10()
    loud = (level > level.max() - recipe.range_db).nonzero().flatten()
    first, last = int(loud[0]), int(loud[-1]) + 1
    return P[:, first:last], (level > level.max() - recipe.range_db)[first:last]


def test_sequences_are_pieces_of_training_files_at_levels_of_their_own(watched):
    """Each lies somewhere in a file of peak 1, its last row says which frames are loud, all of it at one level."""
    made = recurrent(batch=300, level_db=10.0)
    draw, facts = recipes.rvae.sequences(made, watched, 0, False)
    assert set(watched.seen) == {f"speech/train/{s}-{i}.flac" for s in (0, 1) for i in range(3)}
    assert (facts["files"], facts["corpus"]) == (6, "mini-librispeech")
    drawn = draw(seeded())
    assert drawn.shape == (300, 33 + 1, 30)
    files = [by_hand(made, Corpora.read(watched, path)) for path in watched.seen]
    places = [(k, t) for k, (P, _) in enumerate(files) for t in range(P.shape[1] - made.frames + 1)]
    pieces = torch.stack([files[k][0][:, t : t + made.frames].flatten() for k, t in places])
    unit = lambda rows: rows / rows.norm(dim=-1, keepdim=True)  # noqa: E731
    found = (unit(drawn[:, :-1].flatten(1)) @ unit(pieces).mT).argmax(-1)
    levels, quiet, seen = [], 0, set()
    for sequence, place in zip(drawn, found.tolist(), strict=True):
        k, t = places[place]
        P, loud = (x[..., t : t + made.frames] for x in files[k])
        level = sequence[:-1].sum() / P.sum()
        torch.testing.assert_close(sequence[:-1], level * P)
        assert sequence[-1].equal(loud.float())
        levels.append(10 * level.log10())
        quiet += int((~loud).sum())
        seen.add(k)
    levels = torch.stack(levels)
    assert -10 <= levels.min() < -9
    assert 9 < levels.max() <= 10
    assert abs(levels.mean()) < 4 * 10 / math.sqrt(3 * 300)
    assert seen == set(range(6))
    assert 0 < quiet < 0.9 * drawn[:, -1].numel()
    assert len(found.unique()) > 200
    assert draw(seeded()).equal(drawn)
    assert not draw(seeded(1)).equal(drawn)
    flat = recipes.rvae.sequences(replace(made, level_db=0.0), watched, 0, False)[0](seeded())
    assert flat[:, -1].equal(drawn[:, -1])
    torch.testing.assert_close(flat[:, :-1] * 10 ** (levels / 10)[:, None, None], drawn[:, :-1])


def test_a_peak_of_one_before_sequences_are_drawn(toy):
    class Soft(Live):
        def read(self, row):
            return 0.125 * super().read(row)

    exact, soft = (
        recipes.rvae.sequences(recurrent(), c, 0, False)[0] for c in (toy, Soft(toy.root, toy.table, "folder"))
    )
    assert soft(seeded()).equal(exact(seeded()))


def test_files_that_are_too_short_for_a_sequence(toy):
    """Pauses at a file's ends do not count; a file of as many frames as a sequence has is just long enough."""

    class One(Live):
        def read(self, row):
            x = torch.zeros(32000)
            x[8000 : 8000 + 32 * 50] = 0.5 + torch.rand(32 * 50, generator=seeded())
            return x

    corpus = One(toy.root, toy.table, "folder")
    P, _ = by_hand(recurrent(), One.read(corpus, ""))
    n = P.shape[1]
    assert 50 <= n <= 52
    drawn = recipes.rvae.sequences(recurrent(frames=n, batch=2, level_db=0.0), corpus, 0, False)[0](seeded())
    torch.testing.assert_close(drawn[0, :-1], P)
    with pytest.raises(CorpusError, match=f"expected train files of {n + 1} frames at least, got none of 6"):
        recipes.rvae.sequences(recurrent(frames=n + 1), corpus, 0, False)


def test_the_bound_of_sequences_counts_loud_frames_alone():
    made, model = recurrent(), RVAE(STFT(64, 32), 2, 4).double()
    batch = torch.rand(3, 34, 30, dtype=torch.float64, generator=seeded()) + 0.1
    batch[:, -1] = (torch.rand(3, 30, generator=seeded()) < 0.7).double()
    counts = batch[:, -1].bool()
    noise = torch.randn(1, 3, 2, 30, generator=seeded()).double()
    for beta in (0.0, 0.5, 1.0):
        got = made.bound(model, batch, seeded(), beta)
        torch.testing.assert_close(got, model.elbo(batch[:, :-1], noise, beta)[counts].mean())
    batch[:, -1] = 0
    assert made.bound(model, batch, seeded()) == 0


def test_an_rvae(watched):
    made = recipes.RECIPES["rvae"]
    learned = train.train("rvae", watched, progress=False)
    got = RVAE.from_weights(weights.Weights(learned.tensors, learned.config))
    assert {p.dtype for p in learned.tensors.values()} == {torch.float16}
    assert (got.stft, got.latent, got.hidden) == (made.stft, made.latent, made.hidden)
    assert {path.split("/")[1] for path in watched.seen} == {"train", "valid"}
    assert (learned.facts["corpus"], learned.facts["files"]) == ("mini-librispeech", 6)
    assert len(learned.facts["valid_elbo"]) == made.steps
    whole = replace(made, minutes=math.inf, batch=512, level_db=0.0)
    held_out = recipes.rvae.sequences(whole, watched, 0, False, split="valid")[0](generators(0, 1)[0])
    with torch.inference_mode():
        bound = float(made.bound(got, held_out, generators(0, 1)[0]))
    assert abs(bound / learned.facts["valid_elbo"][-1] - 1) < 1e-3  # what half precision takes
    shipped = SHIPPED["rvae"]
    assert shipped.about == "recurrent VAE of speech, 513 bins, 16 latent variables, 128 units"


def test_training_raises_the_bound_of_sequences(toy):
    """On speakers that it has not seen; the divergence weighs more and more, then all of it."""
    made, betas = recurrent(steps=60, learning_rate=0.05, warm=0.25), []

    class Watching(recipes.RVAERecipe):
        def bound(self, model, batch, g, beta=1.0):
            if torch.is_grad_enabled():
                betas.append(beta)
            return super().bound(model, batch, g, beta)

    curve = Watching(**vars(made)).learn(toy, 0, False).facts["valid_elbo"]
    assert len(curve) == 20
    assert curve[-1] > curve[0] + 10
    assert betas == pytest.approx([min(1.0, (i + 1) / 15) for i in range(60)])


def test_an_rvae_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    """To the same bytes."""
    whole = train.write_card("rvae", toy, folder=tmp_path / "whole", progress=False)
    exact, calls = recipes.RVAERecipe.bound, []

    def counted(*args, **choices):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 6:
            raise BrokenOff
        return exact(*args, **choices)

    monkeypatch.setattr(recipes.RVAERecipe, "bound", counted)
    with pytest.raises(BrokenOff):  # where it would have validated the third step
        train.write_card("rvae", toy, folder=tmp_path / "broken", progress=False)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["rvae.checkpoint"]
    path = train.write_card("rvae", toy, folder=tmp_path / "broken", progress=False)
    assert calls == [True, False] * 5  # three steps, then the third once more, and the fourth
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in path.parent.iterdir()) == ["cards.toml", "rvae.safetensors"]
    first, second = (tomllib.loads((p.parent / "cards.toml").read_text("utf-8"))["rvae"] for p in (whole, path))
    times = {"train_seconds": 0}
    assert first | times == second | times
    assert first["command"] == "sepriors train rvae --force"


class BrokenOff(Exception):
    pass


# ------------------------------------------------------------- denoisers

SCORES = [name for name, made in recipes.RECIPES.items() if isinstance(made, recipes.ScoreRecipe)]


def network(name="score"):
    made = recipes.RECIPES[name]
    return Denoiser(channels=made.channels, conditional=made.told)


def drawn_spectra(made, corpus, *, seed=0, **choices):
    """A batch as a recipe draws it."""
    net = Denoiser(conditional=made.told)
    return recipes.score.spectrograms(made, net, corpus, 0, False, **choices)[0](seeded(seed))


def undone(S, length):
    """The waveforms of compressed spectra."""
    return network().stft.inverse(network().compression.inverse(S), length)


@pytest.mark.parametrize("name", SCORES)
def test_a_denoiser(watched, name):
    """Its curve is finite, and ends at the mean of its error by noise level, that of the network in the file."""
    made = recipes.RECIPES[name]
    learned = train.train(name, watched, progress=False)
    facts, got = learned.facts, Denoiser.from_weights(weights.Weights(learned.tensors, learned.config))
    assert (got.conditional, got.channels) == (made.told, (8, 8))
    assert {p.dtype for p in learned.tensors.values()} == {torch.float16}
    assert all(p.isfinite().all() for p in got.parameters())
    assert (facts["corpus"], facts["files"], facts["minutes"]) == ("mini-librispeech", 6, 0.2)
    assert facts["train_seconds"] > 0
    assert facts.get("noises") == (1 if made.told else None)
    curve, levels = facts["valid_error"], facts["valid_error_by_sigma"]
    assert (len(curve), len(levels)) == (made.steps, 8)
    assert all(math.isfinite(value) for value in curve + levels)
    assert curve[-1] == pytest.approx(sum(levels) / 8, abs=2e-4)
    valid = drawn_spectra(replace(made, minutes=math.inf, batch=64, quiet=1.0), watched, split="valid")
    sigmas = torch.logspace(-1.7, 0.24, 8)
    with torch.inference_mode():
        for sigma, rows, error in zip(sigmas, valid.split(8), levels, strict=True):
            by_hand = made.errors(got, rows, sigma.expand(8), generators(0, 1)[0])[1].mean()
            assert float(by_hand) == pytest.approx(error, rel=0.01)  # what half precision takes


@pytest.mark.parametrize("name", SCORES)
def test_training_lowers_the_error_of_a_denoiser(toy, name):
    """On speakers that it has not seen, always in the same noise."""
    made = replace(recipes.RECIPES[name], steps=60, batch=4, learning_rate=0.5)  # of which a tenth: it rises slowly
    curve = made.learn(toy, 0, False).facts["valid_error"]
    assert len(curve) == 20
    assert all(a > b for a, b in pairwise(curve[::4]))
    assert curve[-1] < curve[0] - (0.05 if made.told else 0.005)  # .009 in single precision; .01 had held in bfloat16


def test_a_denoiser_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    """To the same bytes."""
    whole = train.write_card("score", toy, folder=tmp_path / "whole", progress=False)
    exact, calls = recipes.ScoreRecipe.errors, []

    def counted(*args):
        calls.append(torch.is_grad_enabled())
        if calls.count(True) == 3 and not calls[-1]:
            raise BrokenOff
        return exact(*args)

    with monkeypatch.context() as patched:
        patched.setattr(recipes.ScoreRecipe, "errors", counted)
        with pytest.raises(BrokenOff):  # where it would have validated the third step
            train.write_card("score", toy, folder=tmp_path / "broken", progress=False)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["score.checkpoint"]
    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(
            recipes.ScoreRecipe, "errors", lambda *args: asked.append(torch.is_grad_enabled()) or exact(*args)
        )
        path = train.write_card("score", toy, folder=tmp_path / "broken", progress=False)
    assert (
        asked == [True, *[False] * 8] * 2 + [False] * 8
    )  # the third step once more, the fourth, and what goes on record
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in path.parent.iterdir()) == ["cards.toml", "score.safetensors"]
    first, second = (tomllib.loads((p.parent / "cards.toml").read_text("utf-8"))["score"] for p in (whole, path))
    times = {"train_seconds": 0}
    assert first | times == second | times
    assert first["about"] == "denoiser of compressed spectra of speech, a U-Net of 8 8 channels"
    assert first["command"] == "sepriors train score --force"


def test_what_a_denoiser_is_said_to_be():
    about = "denoiser of compressed spectra of speech"
    assert SHIPPED["score"].about == f"{about}, a U-Net of 48 80 128 144 channels"
    noises = "told its mixture with noise (home, vehicle, weather)"
    assert SHIPPED["diffusion-supervised"].about == f"{about}, {noises}, a U-Net of 48 80 128 144 channels"


class Says(torch.nn.Module):
    """A denoiser of a given answer, with a network's weight, that keeps what it was asked."""

    def __init__(self, mean, variance):
        super().__init__()
        self.mean, self.variance, self.weight = mean, variance, network().weight

    def denoise(self, *asked):
        self.asked = asked
        return Denoised(self.mean, self.variance)


def test_the_error_of_a_denoiser_is_over_what_independent_bins_would_leave():
    """Whoever knows the speech has none; before training it is 1 for white speech of that spread; no last bin."""
    made, net = recipes.ScoreRecipe(), network()
    net.start(seeded())
    clean = net.sigma_data * torch.randn(40, 1, 257, 50, dtype=torch.cfloat, generator=seeded(1))
    sigma = torch.logspace(-2, 0.4, 40)
    known = Says(clean[:, 0].clone(), torch.ones(40, 257, 50))
    known.mean[:, -1] = 1e6
    loss, error = made.errors(known, clean, sigma, seeded(2))
    assert not error.any()
    assert not loss.any()  # log 1
    with torch.no_grad():
        loss, error = made.errors(net, clean, sigma, seeded(2))
    torch.testing.assert_close(error, torch.ones(40), atol=5 / (256 * 50) ** 0.5, rtol=0)
    weight = net.weight(sigma)
    torch.testing.assert_close(loss, error + made.share * (error + weight.log()))


def test_a_denoiser_is_asked_about_speech_in_complex_noise_of_variance_sigma_squared():
    told, sigma = recipes.ScoreRecipe(told=True), torch.tensor([0.1, 2.0])
    batch = torch.randn(2, 2, 257, 200, dtype=torch.cfloat, generator=seeded())
    model = Says(batch[:, 0], torch.ones(2, 257, 200))
    told.errors(model, batch, sigma, seeded(1))
    x, level, noisy = model.asked
    assert level.equal(sigma[:, None, None])
    assert noisy.equal(batch[:, 1])
    z = (x - batch[:, 0]) / level
    torch.testing.assert_close(z.abs().square().mean((1, 2)), torch.ones(2), atol=4 / (257 * 200) ** 0.5, rtol=0)
    assert z.mean((1, 2)).abs().max() < 4 / (257 * 200) ** 0.5
    recipes.ScoreRecipe().errors(model, batch[:, :1], sigma, seeded(1))
    assert model.asked[2] is None


def test_the_variance_learns_from_the_mean_and_not_the_mean_from_the_variance():
    """Its best value is the squared error; the slope in the mean is that of the error alone."""
    made, clean = recipes.ScoreRecipe(), torch.randn(3, 1, 257, 4, dtype=torch.cfloat, generator=seeded())
    off = 0.3 * torch.randn(3, 257, 4, dtype=torch.cfloat, generator=seeded(1))
    mean = (clean[:, 0] + off).requires_grad_()
    variance = off.abs().square().requires_grad_()
    loss, error = made.errors(Says(mean, variance), clean, torch.full((3,), 0.3), seeded())
    of_loss, of_variance = torch.autograd.grad(loss.sum(), (mean, variance), retain_graph=True)
    assert of_loss.equal(torch.autograd.grad(error.sum(), mean)[0])
    assert of_loss.abs().max() > 0
    assert (of_variance * variance).abs().max() < 1e-6


def test_spectra_of_speech_have_a_greatest_amplitude_of_their_own(watched):
    """Files shorter than a piece: each is there whole, and then silence; its greatest amplitude is its gain alone."""
    made = replace(recipes.RECIPES["score"], batch=100, frames=300)
    S = drawn_spectra(made, watched)
    assert S.shape == (100, 1, 257, 300)
    assert S.dtype == torch.complex64
    assert set(watched.seen) == {f"speech/train/{s}-{i}.flac" for s in (0, 1) for i in range(3)}
    gain = S.abs().amax((1, 2, 3))
    assert made.quiet <= gain.min() < made.quiet + 0.05
    assert 0.95 < gain.max() <= 1 + 1e-6
    assert abs(gain.mean() - (1 + made.quiet) / 2) < 4 * (1 - made.quiet) / math.sqrt(12 * 100)
    net = network()
    files = torch.stack([torch.nn.functional.pad(Corpora.read(watched, path), (0, 6272)) for path in watched.seen])
    whole = net.compression(net.stft(files))
    whole = whole / whole.abs().amax((1, 2), keepdim=True)
    rows = (S[:, 0].abs().flatten(1) @ whole.abs().flatten(1).mT / whole.norm(dim=(1, 2))).argmax(-1)
    assert len(rows.unique()) == 6
    torch.testing.assert_close(S[:, 0], gain[:, None, None] * whole[rows], atol=1e-5, rtol=1e-4)
    assert drawn_spectra(made, watched).equal(S)
    assert not drawn_spectra(made, watched, seed=1).equal(S)


def test_pieces_of_long_files_start_anywhere_at_the_level_of_the_file(toy):
    """A piece lies between the frames of its file, so its peak is not quite the file's; on a ramp, each is found."""

    class Ramp(Live):
        def read(self, row):
            return torch.arange(1.0, 32001) / 32000

    made = replace(recipes.RECIPES["score"], batch=300, frames=64, quiet=1.0)
    length, net = 63 * 128, network()
    peak = float(net.compression(net.stft(Ramp.read(toy, ""))).abs().max())
    x = undone(peak * drawn_spectra(made, Ramp(toy.root, toy.table, "folder"))[:, 0], length)
    torch.testing.assert_close(x - x[:, :1], (torch.arange(length) / 32000.0).expand(300, -1), atol=1e-3, rtol=0)
    start = x.mean(-1) * 32000 - (length + 1) / 2
    last = 32000 - length
    assert -30 < start.min() < 0.02 * last
    assert 0.98 * last < start.max() < last + 30
    assert abs(start.mean() - last / 2) < 4 * last / math.sqrt(12 * 300)
    peaks = drawn_spectra(made, toy).abs().amax((1, 2, 3))
    assert 0.9 < peaks.max() < 1.05  # not 1: measured 1.002 here, 1.03 of LibriSpeech


def test_mixtures_have_a_greatest_amplitude_of_their_own_and_share_it_with_the_speech(watched):
    """The noise is the difference of the waveforms, at an even signal-to-noise ratio in decibels."""
    made = replace(recipes.RECIPES["diffusion-supervised"], batch=400, frames=64)
    both = drawn_spectra(made, watched)
    assert both.shape == (400, 2, 257, 64)
    gain = both[:, 1].abs().amax((1, 2))
    assert made.quiet <= gain.min() < made.quiet + 0.02
    assert 0.98 < gain.max() <= 1 + 1e-6
    assert abs(gain.mean() - (1 + made.quiet) / 2) < 4 * (1 - made.quiet) / math.sqrt(12 * 400)
    clean, noisy = undone(both, 63 * 128).unbind(1)
    power = [x.square().mean(-1) for x in (clean, noisy - clean)]
    snr = 10 * (power[0] / power[1]).log10()
    low, high = made.snrs
    assert low - 0.01 < snr.min() < low + 0.3
    assert high - 0.3 < snr.max() < high + 0.01
    assert abs(snr.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 400)
    hiss = Corpora.read(watched, "noise/train/street.flac")
    for x in (noisy - clean)[:5]:  # each a piece of the recording: somewhere it correlates wholly with it
        pieces = hiss.unfold(0, 63 * 128, 1)
        assert ((pieces @ x) / pieces.norm(dim=-1) / x.norm()).max() > 0.999


@pytest.mark.parametrize(("classes", "expected"), [(("street",), {"street"}), (("home", "street"), {"home", "street"})])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_mixtures_have_training_noise_of_the_named_classes_alone(watched, split, classes, expected):
    """In validation too; nobody who is told no mixture reads any."""
    made = replace(recipes.RECIPES["diffusion-supervised"], noises=classes)
    _, facts = recipes.score.spectrograms(made, network("diffusion-supervised"), watched, 0, False, split=split)
    assert {path for path in watched.seen if path.startswith("noise")} == {f"noise/train/{c}.flac" for c in expected}
    assert facts["noises"] == len(expected)
    assert {path.split("/")[1] for path in watched.seen if path.startswith("speech")} == {split}
    watched.seen.clear()
    _, facts = recipes.score.spectrograms(replace(made, told=False), network(), watched, 0, False, split=split)
    assert all(path.startswith(f"speech/{split}/") for path in watched.seen)
    assert "noises" not in facts


def test_a_recording_shorter_than_a_mixture_is_repeated(toy):
    class Short(Live):
        def read(self, row):
            x = super().read(row)
            return x[:1000] if row.startswith("noise") else x

    made = replace(recipes.RECIPES["diffusion-supervised"], batch=4, frames=64)
    clean, noisy = undone(drawn_spectra(made, Short(toy.root, toy.table, "folder")), 63 * 128).unbind(1)
    n = noisy - clean
    torch.testing.assert_close(n[:, 1000:], n[:, :-1000], atol=1e-3 * float(n.abs().max()), rtol=0)


def test_noise_of_a_class_that_is_not_there(toy):
    with pytest.raises(CorpusError, match="unknown cls 'strete'"):
        drawn_spectra(replace(recipes.RECIPES["diffusion-supervised"], noises=("strete",)), toy)


# ------------------------------------------------------------- flows


class Told(torch.nn.Module):
    """A density that keeps what it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def log_prob(self, s, *noise):
        self.asked.append((s, *noise))
        return 2.0 * s.shape[-1] * torch.arange(len(s))


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow(watched, name):
    made = recipes.RECIPES[name]
    learned = train.train(name, watched, progress=False)
    family = {"waveglow": WaveGlow, "maf": MAF}[made.family]
    got = family.from_weights(weights.Weights(learned.tensors, learned.config))
    assert got.window == 80
    assert got.hidden == made.hidden
    assert got.rms == WaveGlow.rms
    if family is WaveGlow:
        assert (got.context, got.mu, got.conditional) == (made.context, made.mu, made.noise is not None)
    assert {p.dtype for p in learned.tensors.values() if p.is_floating_point()} == {torch.float16}
    assert all(p.isfinite().all() for p in got.parameters())
    assert {path.split("/")[1] for path in watched.seen} == {"train", "valid"}
    assert learned.facts["corpus"] == "mini-librispeech"
    assert learned.facts["files"] == 6
    curve = learned.facts["valid_nats_per_sample"]
    assert len(curve) == made.steps
    if made.noise:
        assert got.clean == math.inf
    else:  # of the same segments, but for what half precision takes
        assert abs(got.clean - curve[-1]) < 5e-3


def test_training_raises_the_density_of_speech(toy, monkeypatch):
    made = replace(recipes.RECIPES["waveglow"], steps=40, learning_rate=0.1)  # of which a tenth: the rate rises slowly
    monkeypatch.setitem(recipes.RECIPES, "waveglow", made)
    curve = train.train("waveglow", toy, progress=False).facts["valid_nats_per_sample"]
    assert len(curve) == 20
    assert curve[-1] > curve[0] + 0.1


def test_a_flow_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    """To the same bytes; and who trains a card need not know of it."""
    whole = train.write_card("waveglow", toy, folder=tmp_path / "whole", progress=False)
    steps = []

    def validate(self, model, s):
        steps.append(len(steps))
        if len(steps) == 3:
            raise BrokenOff
        return exact(self, model, s)

    exact = recipes.FlowRecipe.validate
    with monkeypatch.context() as patched:
        patched.setattr(recipes.FlowRecipe, "validate", validate)
        with pytest.raises(BrokenOff):
            train.write_card("waveglow", toy, folder=tmp_path / "broken", progress=False)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["waveglow.checkpoint"]
    with monkeypatch.context() as patched:
        patched.setattr(recipes.FlowRecipe, "validate", lambda *args: steps.append(len(steps)) or exact(*args))
        path = train.write_card("waveglow", toy, folder=tmp_path / "broken", progress=False)
    assert steps == [0, 1, 2, 3, 4]  # step 3 once more, then step 4
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in path.parent.iterdir()) == ["cards.toml", "waveglow.safetensors"]
    first, second = (tomllib.loads((p.parent / "cards.toml").read_text("utf-8"))["waveglow"] for p in (whole, path))
    times = {"train_seconds": 0}
    assert first | times == second | times
    assert len(first["valid_nats_per_sample"]) == 4
    assert all(isinstance(value, float) for value in first["valid_nats_per_sample"])
    assert first["command"] == "sepriors train waveglow --force"


def test_segments_are_pieces_of_files_at_one_level(watched):
    """A power of 1e-3 for each file, plus half a bit of dither either way; training files alone."""
    made = replace(recipes.RECIPES["waveglow"], seconds=2.0, batch=40)  # as long as the files
    draw, facts = recipes.flow.segments(made, watched, 0, False)
    assert set(watched.seen) == {f"speech/train/{s}-{i}.flac" for s in (0, 1) for i in range(3)}
    assert facts["minutes"] == 0.2
    s = draw(seeded())
    assert s.shape == (40, 32000)
    files = torch.stack([Corpora.read(watched, path) for path in watched.seen])
    gains = WaveGlow.rms / files.square().mean(-1, keepdim=True).sqrt()
    rows = torch.cdist(s, gains * files).argmin(-1)
    assert len(rows.unique()) == 6
    dither = (s - gains[rows] * files[rows]) / gains[rows] * 2**15
    assert 0.49 < dither.abs().max() < 0.51
    assert abs(dither.double().mean()) < 4 * math.sqrt(1 / 12 / dither.numel()) + 1e-5
    assert draw(seeded()).equal(s)
    assert not draw(seeded(1)).equal(s)


def test_segments_start_anywhere(toy):
    class Ramp(Live):
        def read(self, row):
            return torch.arange(32000.0)

    made = replace(recipes.RECIPES["waveglow"], seconds=0.5, batch=500)
    s = recipes.flow.segments(made, Ramp(toy.root, toy.table, "folder"), 0, False)[0](seeded())
    s = s / WaveGlow.rms * float(torch.arange(32000.0).double().square().mean().sqrt())  # the ramp's own level
    assert s.shape == (500, 8000)
    torch.testing.assert_close(s - s[:, :1], torch.arange(8000.0).expand(500, -1), atol=0.05, rtol=0)
    start = s[:, 0]
    assert start.min() < 24000 * 0.02
    assert 24000 * 0.98 < start.max() < 24001
    assert abs(start.mean() - 12000) < 4 * 24000 / math.sqrt(12 * 500)


def test_files_that_are_too_short_for_a_segment(toy):
    with pytest.raises(CorpusError, match=r"expected train files of 2\.5 s at least, got none of 6"):
        recipes.flow.segments(replace(recipes.RECIPES["waveglow"], seconds=2.5), toy, 0, False)


def test_the_density_of_clean_speech_is_a_mean_over_samples():
    model, s = Told(), torch.randn(3, 160, generator=seeded())
    assert recipes.FlowRecipe().density(model, s, seeded()) == 2.0  # of 0, 2 and 4
    assert model.asked[0][0].equal(s)
    assert len(model.asked[0]) == 1


def test_the_density_of_noisy_speech_is_asked_with_the_noise_that_is_added():
    model, s = Told(), torch.zeros(4000, 400)
    made = recipes.FlowRecipe(noise=(1e-3, 0.1))
    made.density(model, s, seeded())
    ((noisy, tau),) = model.asked
    torch.testing.assert_close(
        noisy.square().mean(-1).sqrt() / tau, torch.ones(4000), atol=5 * (0.5 / 400) ** 0.5, rtol=0
    )
    level = tau.log10()
    assert -3 <= level.min() < -2.99
    assert -1.01 < level.max() <= -1
    assert abs(level.mean() + 2) < 4 * 2 / math.sqrt(12 * 4000)
    torch.testing.assert_close(level.std(), torch.tensor(2 / math.sqrt(12)), rtol=0.03, atol=0)
    assert made.validate(model, s) == made.validate(model, s)
    assert model.asked[1][0].equal(model.asked[2][0])


def test_a_finished_flow_is_asked_in_half_precision():
    """What its file holds is what its likelihood of clean speech is of."""
    flow, s = drawn_flow(dtype=torch.float32, away=3), WaveGlow.rms * torch.randn(4, 160, generator=seeded())
    tensors, config = recipes.flow.finished(flow, s)
    got = WaveGlow.from_weights(weights.Weights(tensors, config))
    assert got.clean == round(float(got.log_prob(s).detach().mean()) / 160, 3)
    assert abs(got.clean - float(flow.log_prob(s).mean()) / 160) > 0.01
    assert got.hidden == flow.hidden
    assert flow.clean == math.inf  # what was given stays
    assert recipes.flow.finished(drawn_flow(conditional=True, dtype=torch.float32), s)[1]["clean"] == math.inf


# ------------------------------------------------------------- unpaired


UNPAIRED = [name for name, made in recipes.RECIPES.items() if isinstance(made, recipes.UnpairedRecipe)]


@pytest.mark.parametrize("name", ["codec", *UNPAIRED])
def test_a_separator(watched, name):
    """Finite, half precision, its curve and its files on record, and it has read training and validation files only."""
    learned = train.train(name, watched, progress=False)
    facts, got = learned.facts, Codec.from_weights(weights.Weights(learned.tensors, learned.config))
    assert got.channels == (8, 8, 8, 16)
    assert {p.dtype for p in learned.tensors.values()} == {torch.float16}
    assert all(p.isfinite().all() for p in got.parameters())
    assert {path.split("/")[1] for path in watched.seen} == {"train", "valid"}
    curve = facts["valid_rebuilt_si_sdr" if name == "codec" else "valid_si_sdr_gain"]
    assert len(curve) == 4
    assert facts["corpus"] == "mini-librispeech, noise"
    assert facts["speech_minutes"] > 0
    if name != "codec":
        by_file = facts["valid_gain_by_file"]
        assert len(by_file) == 24
        assert sum(by_file) / 24 == pytest.approx(curve[-1], abs=0.02)
        assert "diverged_at_step" not in facts


def test_the_codec_hears_no_clean_corpus(toy, monkeypatch):
    """What stands in the place of clean speech in a batch does not matter to it."""
    exact, kept = recipes.codec.drawing, []

    def without(*args, **kw):
        draw = exact(*args, **kw)
        return lambda g: draw(g) * torch.tensor([1.0, math.nan, 1.0])[:, None, None]

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(recipes.codec, "drawing", without)
        learned = train.train("codec", toy, progress=False)
        kept.append(learned.tensors)
        assert learned.facts["clean_minutes"] == 0
    assert all(a.equal(b) for a, b in zip(kept[0].values(), kept[1].values(), strict=True))


def test_training_lowers_what_rebuilding_misses(toy):
    made = replace(recipes.RECIPES["codec"], steps=60, batch=4, learning_rate=0.02)
    curve = made.learn(toy, 0, False).facts["valid_rebuilt_si_sdr"]
    assert curve[-1] > curve[0] + 3


def test_a_separator_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    """To the same bytes, with samples to listen to on the way, and none left behind."""
    whole = train.write_card("use-ddp", toy, folder=tmp_path / "whole", progress=False)
    exact, calls = AdversarialLoss.cost, []

    def counted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise BrokenOff
        return exact(*args)

    with monkeypatch.context() as patched:
        patched.setattr(AdversarialLoss, "cost", counted)
        with pytest.raises(BrokenOff):
            train.write_card("use-ddp", toy, folder=tmp_path / "broken", progress=False)
    found = sorted(path.name for path in (tmp_path / "broken").iterdir())
    assert found == ["use-ddp.checkpoint", "use-ddp.samples"]
    heard = sorted(path.name for path in (tmp_path / "broken" / "use-ddp.samples").iterdir())
    assert heard == [f"{i}-{kind}.flac" for i in range(3) for kind in ("mixture", "noise", "speech")]
    path = train.write_card("use-ddp", toy, folder=tmp_path / "broken", progress=False)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["cards.toml", "use-ddp.safetensors"]


def test_a_diverging_separator_keeps_the_best(toy, monkeypatch):
    """And says at which step it stopped."""
    exact, calls = AdversarialLoss.cost, []

    def diverges(*args):
        calls.append(1)
        return exact(*args) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(AdversarialLoss, "cost", diverges)
    learned = train.train("use-ddp", toy, progress=False)
    assert learned.facts["diverged_at_step"] == 3
    assert len(learned.facts["valid_si_sdr_gain"]) == 2
    assert all(p.isfinite().all() for p in learned.tensors.values())


def test_a_separator_begins_as_the_codec_of_a_card():
    made = replace(SHIPPED["use-ddp"], start="codec").begun()
    shipped = weights.load("codec").tensors
    assert all(p.equal(shipped[name].float()) for name, p in made.state_dict().items())
    assert all(p.requires_grad for p in made.parameters())
    assert SHIPPED["use-ddp-scratch"].begun() is None


def test_a_separator_begins_as_a_published_codec(server, tmp_path, monkeypatch):
    """Which is downloaded once; where it cannot be had the error says so."""
    torch.save(published(drawn_descript()), tmp_path / "served.pth")
    server.files["weights_16khz.pth"] = (tmp_path / "served.pth").read_bytes()
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(recipes.codec.DESCRIPT, "urls", [f"{server.url}/weights_16khz.pth"])
    made = SHIPPED["use-ddp-descript"].begun()
    assert isinstance(made, Descript)
    assert made.rates == (2, 4, 5, 8)
    again = SHIPPED["use-ddp-descript"].begun()
    assert len([path for path, _ in server.asked if path.endswith(".pth")]) == 1
    assert all(a.equal(b) for a, b in zip(made.encoder.parameters(), again.encoder.parameters(), strict=True))
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "other"))
    monkeypatch.setitem(recipes.codec.DESCRIPT, "urls", [f"{server.url}/gone.pth"])
    with pytest.raises(CorpusError, match=r"could not download weights_16khz\.pth"):
        SHIPPED["use-ddp-descript"].begun()


def test_a_published_codec_is_tuned_like_ours(toy, tmp_path, monkeypatch):
    """Adversaries and all, with its own level and its own strides."""
    torch.save(published(drawn_descript()), tmp_path / "weights.pth")
    monkeypatch.setattr(recipes.codec, "download", lambda *args, **kw: tmp_path / "weights.pth")
    made = replace(SHIPPED["use-ddp"].smoke(), start="descript", steps=1)
    learned = made.learn(toy, 0, False)
    got = Descript.from_weights(weights.Weights(learned.tensors, learned.config))
    assert all(p.isfinite().all() for p in got.parameters())


# ------------------------------------------------------------- embeddings, and masks from them

PAIRED = [name for name, made in SHIPPED.items() if isinstance(made, recipes.PairedRecipe)]


def test_embeddings(watched):
    """Two rounds, of speech alone; a card with what was guessed in each; half precision, and a network again."""
    learned = train.train("ssl", watched, progress=False)
    assert {path.split("/")[1] for path in watched.seen} == {"train", "valid"}
    assert {path.split("/")[0] for path in watched.seen} == {"speech", "noise"}
    assert not any(path.startswith("noise/valid") for path in watched.seen)
    assert {p.dtype for p in learned.tensors.values()} == {torch.half}
    made = SSL.from_weights(weights.Weights(learned.tensors, learned.config))
    assert (made.width, made.layers) == (8, 2)
    for i in (1, 2):
        assert len(learned.facts[f"valid_guessed_{i}"]) == 4
        assert 0 < learned.facts[f"valid_most_frequent_{i}"] <= 1
        assert all(0 <= share <= 1 for share in learned.facts[f"valid_guessed_{i}"])


def test_embeddings_go_on_from_their_checkpoint(toy, tmp_path, monkeypatch):
    """In the second round, to the same bytes, without the first again."""
    whole = train.write_card("ssl", toy, folder=tmp_path / "whole", progress=False)
    exact, calls = recipes.SSLRecipe.loss, []

    def counted(*args):
        calls.append(1)
        if len(calls) == 7:  # the third step of the second round
            raise BrokenOff
        return exact(*args)

    monkeypatch.setattr(recipes.SSLRecipe, "loss", counted)
    with pytest.raises(BrokenOff):
        train.write_card("ssl", toy, folder=tmp_path / "broken", progress=False)
    found = sorted(path.name for path in (tmp_path / "broken").iterdir())
    assert found == ["ssl.checkpoint.1", "ssl.checkpoint.2"]
    path = train.write_card("ssl", toy, folder=tmp_path / "broken", progress=False)
    assert len(calls) == 9
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["cards.toml", "ssl.safetensors"]


def test_each_label_comes_with_the_samples_that_its_frame_sees():
    """Files whose samples and labels say where they are: every frame of a batch has the label of its place."""
    made = replace(SHIPPED["ssl"].smoke(), level_db=0.0, batch=50)
    length = 320 * 130
    speech = [torch.arange(length) + 1e6 * k for k in (1, 2)]
    labels = [torch.arange(131) + 1000 * k for k in (1, 2)]
    batch = made.drawing(speech, labels)(seeded())
    T = 50
    assert batch.shape == (50, 320 * (T - 1) + 400 + T)
    starts = set()
    for row in batch:
        x, y = row[:-T], row[-T:]
        k, i = divmod(int(y[0]), 1000)
        assert y.tolist() == [1000 * k + j for j in range(i, i + T)]
        whole = torch.nn.functional.pad(speech[k - 1], (120, 1000))
        torch.testing.assert_close(x, whole[320 * i : 320 * i + len(x)])
        starts.add((k, i))
    assert len(starts) > 30
    with pytest.raises(CorpusError, match="expected files of 1 s at least"):
        made.drawing([torch.zeros(8000)], [torch.zeros(26)])


def test_some_clips_are_in_noise_and_labels_stay(toy):
    """A half of them, at a ratio between the bounds; the others are what they were."""
    made = replace(SHIPPED["ssl"].smoke(), level_db=0.0, batch=200, snr_db=(0.0, 10.0))
    speech = [torch.randn(320 * 130, generator=seeded(k)) for k in (1, 2)]
    labels = [torch.arange(131) + 1000 * k for k in (1, 2)]
    noise = Clips.of_noise(toy, toy.select(kind="noise", split="train"), made.samples)
    batch = made.drawing(speech, labels, noise)(seeded())
    whole = {k: torch.nn.functional.pad(x, (120, 1000)) for k, x in zip((1, 2), speech, strict=True)}
    snrs = []
    for row in batch:
        x, y = row[:-50], row[-50:]
        k, i = divmod(int(y[0]), 1000)
        clean = whole[k][320 * i : 320 * i + len(x)]
        missed = float((x - clean).square().mean())
        if missed:
            snrs.append(10 * math.log10(float(clean.square().mean()) / missed))
    assert 70 <= len(snrs) <= 130
    assert -0.01 < min(snrs) < 1
    assert max(snrs) > 9  # pauses of a recording of noise are not made louder


def test_a_network_that_knows_guesses_all_and_one_that_does_not_guesses_by_chance():
    made = replace(SHIPPED["ssl"].smoke(), batch=4)
    logits = torch.randn(1000, 9, generator=seeded())
    logits[:, 0] = 10

    class Says(torch.nn.Module):
        def forward(self, x, y):
            return logits, logits, None

    batch = torch.zeros(4, 320 * 49 + 400 + 50)
    assert made.guessed(Says(), batch) == 1
    expected = (logits.logsumexp(-1) - 10).mean()
    torch.testing.assert_close(made.loss(Says(), batch, seeded(), 0.5), expected)
    logits[:, 0] = torch.randn(1000, generator=seeded(1))
    assert made.guessed(Says(), batch) == pytest.approx(1 / 9, abs=0.03)


def test_training_teaches_what_is_hidden(toy):
    """More hidden frames are guessed than by naming the most frequent class."""
    made = replace(SHIPPED["ssl"].smoke(), minutes=1.0, steps=(150, 1), batch=4, learning_rate=0.01)
    learned = made.learn(toy, 0, False)
    assert learned.facts["valid_guessed_1"][-1] > learned.facts["valid_most_frequent_1"] + 0.1


@pytest.mark.parametrize("name", PAIRED)
def test_a_mask(watched, name):
    learned = train.train(name, watched, progress=False)
    made = BSSE.from_weights(weights.Weights(learned.tensors, learned.config))
    recipe = SHIPPED[name]
    assert made.inputs == recipe.inputs
    curve = learned.facts["valid_si_sdr_gain"]
    assert len(curve) == 4
    assert all(math.isfinite(gain) for gain in curve)
    assert ("layer_weights" in learned.facts) == (recipe.inputs != "spectrum")
    if recipe.inputs != "spectrum":
        assert sum(learned.facts["layer_weights"]) == pytest.approx(1, abs=1e-3)
    asked = [key for key in learned.facts if key.startswith("matched_")]
    assert asked == ([f"matched_{metric}" for metric in recipes.bsse.SCORES] if recipe.files else [])
    tests = {path.split("/")[1] for path in watched.seen} == {"train", "valid", "test"}
    assert tests == bool(recipe.files)


@pytest.mark.parametrize("tuning", ["frozen", "part", "whole"])
def test_what_is_frozen_stays(toy, tuning):
    """To the last bit; and what is tuned moves, every tensor of it."""
    made = replace(
        recipes.RECIPES["bsse"], tuning=tuning, files=0, learning_rate=20.0
    )  # four steps, and half precision
    before = {name: p.half() for name, p in made.make(seeded(0)).state_dict().items()}
    after = made.learn(toy, 0, False).tensors
    assert after.keys() == before.keys()
    stays = {"frozen": "ssl.", "part": "ssl.network.feature_extractor.", "whole": "none"}[tuning]
    for name, p in after.items():
        if name.startswith(stays):
            assert p.equal(before[name]), name
        elif not name.endswith(("k_proj.bias", "transformer.layer_norm.weight", "transformer.layer_norm.bias")):
            # a softmax does not feel the one, and the other two lie beyond the last embedding
            assert not p.equal(before[name]), name


def test_a_mask_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    whole = train.write_card("bsse", toy, folder=tmp_path / "whole", progress=False)
    exact, calls = recipes.PairedRecipe.loss, []

    def counted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise BrokenOff
        return exact(*args)

    monkeypatch.setattr(recipes.PairedRecipe, "loss", counted)
    with pytest.raises(BrokenOff):
        train.write_card("bsse", toy, folder=tmp_path / "broken", progress=False)
    path = train.write_card("bsse", toy, folder=tmp_path / "broken", progress=False)
    assert len(calls) == 5
    assert path.read_bytes() == whole.read_bytes()


def test_pairs_lower_the_cost_and_raise_the_gain(toy):
    made = replace(recipes.RECIPES["bsse-spectrum"], steps=300, batch=8, files=0, learning_rate=0.02)
    curve = made.learn(toy, 0, False).facts["valid_si_sdr_gain"]
    assert curve[-1] > max(0.5, curve[0] + 2)


def test_the_cost_of_a_mask_is_least_for_who_knows(toy):
    made, net = SHIPPED["bsse-spectrum"], BSSE("spectrum", width=8, hidden=8)
    x = 0.03 * torch.randn(2, 3000, generator=seeded())
    with torch.no_grad():
        net.outward.weight.zero_()
        net.outward.bias.fill_(100.0)
        best = float(made.loss(net, torch.stack([x, x]), seeded(), 0.0))
        assert best == pytest.approx(-30 * made.decibels, abs=1e-5)  # the SNR counts to 30 dB
        distance = (net.spectrum(x).abs().log1p() - net.spectrum(0.5 * x).abs().log1p()).abs().mean()
        expected = distance + made.decibels * 10 * math.log10(1.001)  # what is missed is as much as there is
        torch.testing.assert_close(made.loss(net, torch.stack([x, 0.5 * x]), seeded(), 0.0), expected)


def test_scores_are_those_of_the_bench(toy):
    """Each file's mean over the SNRs, in the order of the set."""
    mixtures = bench_set(toy, "real", files=2, seconds=2.0, snrs=[0.0, 10.0])
    method = Separator(BSSE("spectrum", width=8, hidden=8).requires_grad_(False))
    got = recipes.bsse.scored(method, mixtures)
    table = bench.records(bench.run({"m": method}, mixtures, metrics=["si_sdr", "stoi"]))
    table = table[table["method"] == "m"].groupby("file")[["si_sdr", "stoi"]].mean().loc[list(mixtures[0].key)]
    for metric in ("si_sdr", "stoi"):
        assert got[metric] == pytest.approx(table[metric].tolist(), abs=1e-3)


def test_pairs_without_noise_and_watched_without_validation_noise(toy):
    def without(split):
        rows = toy.table[(toy.table["kind"] != "noise") | (toy.table["split"] != split)]
        return Corpora(toy.root, rows, toy.origin)

    made = replace(recipes.RECIPES["bsse"], files=0)
    for split, kind in (("train", "training noise of any class"), ("valid", "validation noise")):
        with pytest.raises(CorpusError, match=f"expected {kind}, got none"):
            made.learn(without(split), 0, False)


def test_what_masks_are_said_to_be():
    supervised = "; supervised: trained on pairs"
    assert SHIPPED["bsse"].about == f"mask from spectrum and embeddings, the embeddings tuned{supervised}"
    assert SHIPPED["bsse-spectrum"].about == f"mask from spectrum{supervised}"
    assert SHIPPED["bsse-embeddings-part"].about.startswith(
        "mask from embeddings, the embeddings tuned but for the conv"
    )
