"""Training again gives the same weights, with a card that tells the truth."""

import math
import tomllib
from dataclasses import replace
from importlib import resources
from types import SimpleNamespace

import pytest
import torch
from conftest import drawn_descript, drawn_flow
from test_codec import published
from test_fitting import Broken

from sepriors import STFT, priors, weights
from sepriors.lab import bench, recipes, train
from sepriors.lab.corpora import Corpora, CorpusError, bench_set
from sepriors.lab.recipes.base import OneFit
from sepriors.lab.training import unpaired
from sepriors.lab.training.adversarial import AdversarialLoss
from sepriors.lab.training.simulator import Clips
from sepriors.methods import Separator
from sepriors.priors import BSSE, RVAE, VAE, Denoiser, Descript, WaveGlow
from sepriors.protocols import Denoised

SHIPPED = dict(recipes.RECIPES)  # as they are; the tests below have them in seconds
ONE_A_FAMILY = [
    "nmf-speech-257", "nmf-white-257", "vae-257", "vae-background", "rvae", "waveglow-noisy", "maf", "score",
    "diffusion-supervised", "codec", "use-ddp", "use-ddp-close-talk", "ssl", "npe", "bsse",
]  # fmt: skip
RESUMED = [name for name in ONE_A_FAMILY if isinstance(SHIPPED[name], recipes.LongRecipe)]
TWICE = [name for name in ONE_A_FAMILY if name in ("rvae", "ssl") or name not in RESUMED]  # the others as they resume


@pytest.fixture(autouse=True)
def _smoke(monkeypatch, tmp_path_factory):
    for name, made in SHIPPED.items():
        noises = {"noises": ("street",)} if hasattr(made, "noises") else {}  # of the classes that the corpus has
        monkeypatch.setitem(recipes.RECIPES, name, replace(made.smoke(), **noises))
    monkeypatch.setattr(unpaired, "ELSEWHERE", ["mini-librispeech"])  # here there is no other speech
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


class Watched(Corpora):
    """A corpus that keeps a list of what was read."""

    def __init__(self, *about):
        super().__init__(*about)
        self.seen = []

    def decoded(self, rows, **kw):
        self.seen += list(rows["path"])
        return super().decoded(rows, **kw)


class Live(Corpora):
    """A corpus whose `read` a test changes: nothing of it is taken from the cache."""

    def decoded(self, rows, **kw):
        return [self.read(path) for path in rows["path"]]


def live(toy, sound):
    """The corpus with other sounds, by path and what was there."""
    made = Live(toy.root, toy.table, "folder")
    made.read = lambda path: sound(path, toy.read(path))
    return made


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distances(x, y):
    """Of rows (n, m), by differences: products would round."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def uniform(x, low, high):
    """Whether draws are even between two bounds: their mean, and the gaps at the ends."""
    spare = (high - low) * 20 / len(x)
    assert low - 1e-4 <= x.min() < low + spare
    assert high - spare < x.max() <= high + 1e-4
    assert abs(x.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(x))


# ------------------------------------------------------------- every recipe


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "use-ddp-descript" and "seed" not in name])
def test_a_recipe(toy, name, tmp_path):
    """Half precision, a network again, what it has read is on record, and the end of its curve is the network's."""
    made, corpus = recipes.RECIPES[name], Watched(toy.root, toy.table, "folder")
    learned = train.train(name, corpus, progress=False)
    facts, splits = learned.facts, {path.split("/")[1] for path in corpus.seen}
    assert all(p.isfinite().all() for p in learned.tensors.values())
    assert facts["train_seconds"] > 0
    judged = getattr(made, "bench_files", 0)
    assert splits <= {"train", "valid", *(["test"] if judged else [])}
    allowed = set(made.training_files(toy)["path"])
    assert {path for path in corpus.seen if "/train/" in path} <= allowed
    if type(made) is recipes.NMFRecipe:  # single precision, and no network
        W = learned.tensors["W"]
        assert W.shape == (made.stft.bins, made.rank)
        torch.testing.assert_close(W.sum(0), torch.ones(made.rank))
        assert made.kind == "white" or len(facts["valid_divergence"]) == 3
        return
    assert {p.dtype for p in learned.tensors.values()} == {torch.float16}
    weights.save(tmp_path / "w.safetensors", learned.tensors, learned.config)
    net = priors.load(tmp_path / "w.safetensors")
    for field in ("stft", "latent", "hidden", "context", "mu", "inputs", "width"):
        if hasattr(made, field) and hasattr(net, field):
            assert getattr(net, field) == getattr(made, field)
    if isinstance(made, recipes.VAERecipe) and "valid_elbo" in facts:
        valid, _ = recipes.spectra(made, toy, 0, False, peak=True, split="valid")
        assert facts["valid_elbo"][-1] == pytest.approx(recipes.vae.mean_elbo(net, valid), rel=0.01)
    if not isinstance(made, OneFit):
        return
    curve, held_out = made.curve[0], made.data(toy, 0, False).held_out
    model = SimpleNamespace(generator=net) if isinstance(made, recipes.UnpairedRecipe) else net
    with torch.inference_mode():
        value = made.validate(model, held_out)
    assert (len(facts[curve]), {"train", "valid"} <= splits) == (4, True)
    assert facts[curve][-1] == pytest.approx(value, rel=0.01, abs=0.05)  # what half precision takes
    if name.startswith("use-ddp"):
        assert sum(facts["valid_gain_by_file"]) / 24 == pytest.approx(facts[curve][-1], abs=0.02)
    if isinstance(made, recipes.ScoreRecipe):  # in validation, too, noise is of the training's classes
        noise = {path for path in corpus.seen if path.startswith("noise")}
        assert noise == ({"noise/train/street.flac"} if made.conditional else set())
        assert sum(facts["valid_error_by_sigma"]) / 8 == pytest.approx(facts[curve][-1], abs=2e-4)
    if isinstance(made, recipes.FlowRecipe):
        assert net.clean == (math.inf if made.noise else pytest.approx(facts[curve][-1], abs=5e-3))
    if isinstance(made, recipes.PairedRecipe):
        assert [key for key in facts if key.startswith("matched_")] == (
            [f"matched_{metric}" for metric in recipes.bsse.SCORES] if judged else []
        )
        assert made.inputs == "spectrum" or sum(facts["layer_weights"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", TWICE)
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


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch, name):
    """To the same bytes, and what was done is not done again: of `ssl` not the first round; samples of `use-ddp`."""
    made = recipes.RECIPES[name]
    if name == "bsse":
        monkeypatch.setitem(recipes.RECIPES, name, replace(made, bench_files=0))
    uninterrupted = train.write_card(name, toy, folder=tmp_path / "uninterrupted", progress=False)
    torch.manual_seed(1)  # of which nothing may depend
    exact, calls, breaks_at = type(made).loss, [], 7 if name == "ssl" else 3

    def counted(*args):
        calls.append(1)
        if len(calls) == breaks_at:
            raise Broken
        return exact(*args)

    monkeypatch.setattr(type(made), "loss", counted)
    with pytest.raises(Broken):
        train.write_card(name, toy, folder=tmp_path / "broken", progress=False)
    left = {"ssl": ["ssl.checkpoint.1", "ssl.checkpoint.2"]}.get(name, [f"{name}.checkpoint"])
    if name.startswith("use-ddp"):
        left.append(f"{name}.samples")
        samples = sorted(path.name for path in (tmp_path / "broken" / left[1]).iterdir())
        assert samples == [f"{i}-{kind}.flac" for i in range(3) for kind in ("mixture", "noise", "speech")]
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == left
    path = train.write_card(name, toy, folder=tmp_path / "broken", progress=False)
    assert len(calls) == breaks_at + 2  # the step that broke off once more, and one more
    assert path.read_bytes() == uninterrupted.read_bytes()
    assert {file.name for file in path.parent.iterdir()} == {"cards.toml", f"{name}.safetensors"}
    first, second = (tomllib.loads((p.parent / "cards.toml").read_text())[name] for p in (uninterrupted, path))
    assert first | {"train_seconds": 0} == second | {"train_seconds": 0}
    assert first["command"] == f"sepriors train {name} --force"


TINY_VAE = {"stft": STFT(64, 32), "latent": 2, "hidden": 8, "epochs": 25, "batch": 64}
IMPROVING = {  # changes, and by how much the validation gets better; rates rise slowly, so these are high
    "nmf-speech-257": ({"iterations": 40}, 0.05),
    "vae-257": (TINY_VAE, 20.0),
    "rvae": ({"steps": 60, "learning_rate": 0.05, "stft": STFT(64, 32), "latent": 2, "batch": 40, "frames": 30}, 10.0),
    "waveglow": ({"steps": 40, "learning_rate": 0.1}, 0.1),
    "score": ({"steps": 60, "batch": 4, "learning_rate": 0.5}, 0.005),
    "diffusion-supervised": ({"steps": 60, "batch": 4, "learning_rate": 0.5}, 0.05),
    "codec": ({"steps": 60, "batch": 4, "learning_rate": 0.02}, 3.0),
    "bsse-spectrum": ({"steps": 300, "batch": 8, "bench_files": 0, "learning_rate": 0.02}, 2.0),
}


@pytest.mark.parametrize("name", IMPROVING)
def test_training_helps_speakers_that_it_has_not_seen(toy, name):
    changes, better = IMPROVING[name]
    made = replace(recipes.RECIPES[name], **changes)
    fact = made.curve[0] if isinstance(made, OneFit) else {"nmf": "valid_divergence", "vae": "valid_elbo"}[name[:3]]
    curve = made.learn(toy, 0, False).facts[fact]
    curve = [-value for value in curve] if fact.endswith(("error", "divergence")) else curve
    assert len(curve) == {"nmf": 10, "vae": 5}.get(name[:3], 20)
    assert curve[-1] > curve[0] + better
    assert curve[len(curve) // 2] > curve[0]


def test_every_shipped_card_has_a_recipe():
    assert weights.cards().keys() <= SHIPPED.keys()
    for name, card in weights.cards().items():
        assert card.get("edition") == 1 or card["about"] == SHIPPED[name].about
    for i in (1, 2, 3):
        assert SHIPPED[f"vae-seed{i}"] == replace(SHIPPED["vae"], seed=i)


def test_members_of_an_ensemble_differ(toy):
    one, two = (train.train(name, toy, progress=False).tensors for name in ("vae-seed1", "vae-seed2"))
    assert not any(one[name].equal(two[name]) for name in one)


# ------------------------------------------------------------- cards


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
    got = weights.load("nmf-speech-257")
    assert got.tensors["W"].equal(train.train("nmf-speech-257", toy, seed=3, progress=False).tensors["W"])
    assert got.config == {"stft": {"n_fft": 512, "hop": 128, "sample_rate": 16000}, "rank": 40}
    train.write_card("vae-257", toy, progress=False)
    cards = weights.cards()
    assert list(cards) == ["nmf-speech-257", "other", "vae-257"]
    assert cards["nmf-speech-257"] == card
    shipped = tomllib.loads((resources.files("sepriors.cards") / "cards.toml").read_text("utf-8"))
    # the same kinds of cards, of those that this edition trained
    pairs = {"nmf-speech-257": "nmf-speech", "vae-257": "vae"}
    assert all(cards[name].keys() == shipped[like].keys() for name, like in pairs.items())
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors", ".safetensors", ".toml"]


BOTH = "weights MIT; trained on CC BY 4.0, CC0"
LICENCES = dict.fromkeys(["vae-background", "diffusion-supervised", "ssl", "npe", "bsse", "codec", "use-ddp"], BOTH)
LICENCES |= dict.fromkeys(["nmf-speech", "vae", "score", "npe-generic"], "weights MIT; trained on CC BY 4.0")


@pytest.mark.parametrize(("name", "licence"), [*LICENCES.items(), ("nmf-white-257", "MIT")])
def test_the_licence_is_that_of_all_that_was_learned_from(toy, name, licence):
    toy.table["licence"] = toy.table["kind"].map({"speech": "CC BY 4.0", "noise": "CC0"})
    assert train._licence(recipes.RECIPES[name], toy) == licence


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

    def without(**where):
        column, value = next(iter(where.items()))
        rows = toy.table[(toy.table["kind"] != "noise") | (toy.table[column] != value)]
        return Corpora(toy.root, rows, "folder")

    for name, corpus, what in (
        ("nmf-noise-257", without(kind="noise"), "train files of noise"),
        ("nmf-noise-257", without(split="train"), "train files of noise"),
        ("bsse", without(split="train"), "training noise of any class"),
        ("bsse", without(split="valid"), "validation noise"),
    ):
        made = recipes.RECIPES[name]
        made = replace(made, bench_files=0) if name == "bsse" else made
        with pytest.raises(CorpusError, match=f"expected {what}, got none"):
            made.learn(corpus, 0, False)
    with pytest.raises(CorpusError, match="unknown cls 'strete'"):
        replace(recipes.RECIPES["diffusion-supervised"], noises=("strete",)).learn(toy, 0, False)
    with pytest.raises(CorpusError, match="expected a batch of 64 frames at least, got 15 frames"):
        recipes.vae.fit_vae(VAE(STFT(64, 32), 2, 8), torch.ones(15, 33), None, small(), seeded(), progress=False)
    bare = Corpora(toy.root, toy.table[toy.table["split"] == "train"], "folder")
    assert "valid_elbo" not in train.train("vae-257", bare, progress=False).facts


@pytest.mark.parametrize(("name", "draws", "what"), [
    ("waveglow", lambda made, c: replace(made, seconds=2.5).segments(c, 0, False), r"train files of 2\.5 s at least"),
    ("rvae", lambda made, c: replace(made, frames=200).sequences(c, 0, False), "train files of 200 frames at least"),
    ("ssl", lambda made, c: made.drawing([torch.zeros(8000)] * 6, [torch.zeros(26)] * 6), "files of 1 s at least"),
])  # fmt: skip
def test_files_that_are_too_short(toy, name, draws, what):
    with pytest.raises(CorpusError, match=f"expected {what}, got none of 6"):
        draws(recipes.RECIPES[name], toy)


# ------------------------------------------------------------- spectra: NMF and VAE


def test_only_loud_frames_of_speech(toy):
    made, corpus = recipes.RECIPES["nmf-speech"], Watched(toy.root, toy.table, "folder")
    frames, facts = recipes.spectra(made, corpus, 0, False)
    powers = [made.stft(toy.read(path)).abs().square() for path in corpus.seen]
    loud = [P.sum(0) > P.sum(0).max() / 10 ** (made.range_db / 10) for P in powers]
    assert frames.equal(torch.cat([P[:, counts].mT for P, counts in zip(powers, loud, strict=True)]))
    assert len(frames) < sum(len(counts) for counts in loud)
    assert len(powers) == facts["files"] == 6


def test_a_peak_of_one_whatever_the_level_of_a_file(toy):
    """Of spectra and of sequences."""
    soft = live(toy, lambda path, x: 0.125 * x)
    vae, rvae = recipes.RECIPES["vae"], recipes.RECIPES["rvae"]
    assert recipes.spectra(vae, toy, 0, False, peak=True)[0].equal(recipes.spectra(vae, soft, 0, False, peak=True)[0])
    exact, same = (rvae.sequences(corpus, 0, False)[0](seeded()) for corpus in (toy, soft))
    assert same.equal(exact)
    x = toy.read("speech/valid/10-0.flac")
    P, counts = vae.power(x / x.abs().max())
    frames = recipes.spectra(vae, toy, 0, False, peak=True, split="valid")[0]
    assert (distances(P[:, counts].mT, frames).amin(1) == 0).all()


def test_minutes_are_a_limit_but_one_file_is_always_taken(toy):
    for seconds, files in ((5, 2), (1, 1)):  # of 2 s each
        made = replace(recipes.RECIPES["nmf-speech"], minutes=seconds / 60)
        assert recipes.spectra(made, toy, 0, False)[1]["files"] == files


def test_white_noise_is_at_several_powers():
    made = recipes.NMFRecipe(4, STFT(64, 32), kind="white", minutes=1.0)
    P, facts = recipes.nmf._white(made, 0)
    assert facts["files"] == 6
    level = 10 * P[0].reshape(33, 6, -1).mean((0, 2)).log10()
    torch.testing.assert_close(level.diff(), torch.full((5,), 8.0), atol=0.2, rtol=0)


def small(**changes):
    return recipes.VAERecipe(**TINY_VAE | changes)


def test_an_epoch_takes_each_frame_once_at_a_level_of_its_own():
    """And leaves out what fills no batch; levels are even in decibels, and each epoch draws again."""
    frames = torch.arange(1.0, 2104.0)[:, None].expand(-1, 33)
    flat = [P[0, 0] for P in recipes.vae._batches(frames, small(level_db=0.0, epochs=2, batch=20), seeded())]
    assert [len(b) for b in flat] == [20] * 210
    first, second = torch.cat(flat[:105]), torch.cat(flat[105:])
    assert len(first.unique()) == len(second.unique()) == 2100
    assert not first.equal(second)
    (P,) = recipes.vae._batches(torch.ones(4000, 33), small(level_db=10.0, epochs=1, batch=4000), seeded(1))
    assert P.equal(P[:, :1].expand_as(P))  # the shape of a spectrum stays
    uniform(10 * P[0, 0].log10(), -10, 10)


@pytest.mark.parametrize("fraction", [0.0, 1 / 3, 1.0])
def test_a_fraction_of_the_bins_is_exchanged(fraction):
    N, F = 500, 257
    P = torch.rand(N, F, generator=seeded(), dtype=torch.float64)
    got = recipes.vae.exchange_bins(P.clone(), fraction, seeded(1))
    expected = fraction * (1 - 1 / F)  # a bin may be exchanged for itself
    assert abs(float((got != P).double().mean()) - expected) <= 4 * math.sqrt(expected * (1 - expected) / (N * F))
    assert (got[:, :, None] == P[:, None]).any(-1).all()  # each from a bin of the same frame
    assert (got != P).any(0).all() == (fraction > 0)


def test_what_a_background_learns_from(toy, monkeypatch):
    """All frames of noise, and as many of speech with a third of their bins exchanged."""
    given = {}
    monkeypatch.setattr(recipes.vae, "fit_vae", lambda net, *given_: (net, given.update(x=given_[:2]) or []))
    made = recipes.RECIPES["vae-background"]
    facts = made.learn(toy, 0, False).facts
    assert (facts["corpus"], facts["files"]) == ("noise and mini-librispeech", "2 and 6")
    frames, valid = given["x"]
    noise = recipes.spectra(replace(made, kind="noise", select={}), toy, 0, False, peak=True)[0]
    clean = recipes.spectra(made, toy, 0, False, peak=True)[0]
    assert valid is None
    assert frames[: len(noise)].equal(noise)
    speech = frames[len(noise) :]
    assert len(speech) == min(len(noise), len(clean))
    origin = (speech[:, None] == clean).double().mean(-1)  # how many of its bins each has from each
    assert (origin.amax(-1) - 2 / 3).abs().max() < 5 * math.sqrt(2 / 9 / made.stft.bins)


# ------------------------------------------------------------- sequences


def test_sequences_are_parts_of_files_at_levels_of_their_own(toy):
    """Pauses at a file's ends do not count; the last row says which frames are loud."""
    made = replace(recipes.RECIPES["rvae"], stft=STFT(64, 32), batch=300, frames=30)

    def sound(path, x):
        x = torch.zeros(32000)
        x[8000:12000] = 0.5 + torch.rand(4000, generator=seeded())
        x[9000:10000] = 0
        return x

    corpus = live(toy, sound)
    P, loud = made.power(sound("", None) / sound("", None).max())
    first, *_, last = loud.nonzero().flatten().tolist()
    drawn = made.sequences(corpus, 0, False)[0](seeded())
    flat = replace(made, level_db=0.0).sequences(corpus, 0, False)[0](seeded())
    parts = torch.cat([P, loud[None]])[:, first : last + 1].unfold(1, 30, 1).movedim(1, 0)
    distance = distances(flat.flatten(1), parts.flatten(1))
    assert distance.amin(1).max() < 1e-3
    assert len(distance.argmin(1).unique()) > 0.8 * len(parts)
    assert 0 < (flat[:, -1] == 0).float().mean() < 0.5
    assert flat[:, -1].equal(drawn[:, -1])
    level = drawn[:, :-1].sum((1, 2)) / flat[:, :-1].sum((1, 2))
    torch.testing.assert_close(drawn[:, :-1], level[:, None, None] * flat[:, :-1])
    uniform(10 * level.log10(), -10, 10)


def test_the_bound_of_sequences_counts_loud_frames_alone():
    """And the divergence weighs more and more in the first part of the training, then all of it."""
    made, model = replace(SHIPPED["rvae"], latent=2), RVAE(STFT(64, 32), 2, 4).double()
    batch = torch.rand(3, 34, 30, dtype=torch.float64, generator=seeded()) + 0.1
    batch[:, -1] = (torch.rand(3, 30, generator=seeded()) < 0.7).double()
    counts = batch[:, -1].bool()
    noise = torch.randn(1, 3, 2, 30, generator=seeded()).double()
    for done in (0.0, 0.1, 0.2, 1.0):
        expected = -model.elbo(batch[:, :-1], noise, min(1.0, done / made.warm))[counts].mean()
        torch.testing.assert_close(made.loss(model, batch, seeded(), done), expected)
    batch[:, -1] = 0
    assert made.bound(model, batch, seeded()) == 0


# ------------------------------------------------------------- denoisers


NET = Denoiser(channels=(8, 8))


def drawn_spectra(made, corpus, split="train"):
    """A batch as a recipe draws it."""
    return made.spectrograms(corpus, 0, False, split)[0](seeded())


class Says(torch.nn.Module):
    """A denoiser of a given answer, with a network's weight, that keeps what it was asked."""

    def __init__(self, mean, variance):
        super().__init__()
        self.mean, self.variance, self.weight = mean, variance, NET.weight

    def denoise(self, *asked):
        self.asked = asked
        return Denoised(self.mean, self.variance)


def test_the_error_of_a_denoiser_is_over_what_independent_bins_would_leave():
    """Whoever knows the speech has none; before training it is 1 for white speech of that spread; no last bin.

    1, since the noise that is added is complex and of variance σ²; a mixture is given along where there is one.
    """
    made, net = recipes.ScoreRecipe(), Denoiser(channels=(8, 8))
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
    torch.testing.assert_close(loss, error + made.likelihood * (error + net.weight(sigma).log()))
    assert known.asked[1].equal(sigma[:, None, None])
    assert known.asked[2] is None
    mixture = torch.randn_like(clean)
    recipes.ScoreRecipe(conditional=True).errors(known, torch.cat([clean, mixture], 1), sigma, seeded(2))
    assert known.asked[2].equal(mixture[:, 0])


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


def test_spectra_of_speech_have_a_greatest_amplitude_of_their_own(toy):
    """Files shorter than a clip: each is there whole, and then silence; its greatest amplitude is its gain alone."""
    made, corpus = replace(recipes.RECIPES["score"], batch=100, frames=300), Watched(toy.root, toy.table, "folder")
    S = drawn_spectra(made, corpus)
    assert S.shape == (100, 1, 257, 300)
    gain = S.abs().amax((1, 2, 3))
    uniform(gain, made.quiet, 1.0)
    files = torch.stack([torch.nn.functional.pad(toy.read(path), (0, 6272)) for path in corpus.seen])
    each = NET.compression(NET.stft(files))
    each = each / each.abs().amax((1, 2), keepdim=True)
    rows = (S[:, 0].abs().flatten(1) @ each.abs().flatten(1).mT / each.norm(dim=(1, 2))).argmax(-1)
    assert len(rows.unique()) == 6
    torch.testing.assert_close(S[:, 0], gain[:, None, None] * each[rows], atol=1e-5, rtol=1e-4)
    short = live(toy, lambda path, x: x * (torch.arange(len(x)) / len(x)) ** 3)
    crops = drawn_spectra(replace(made, frames=64, quiet=1.0), short).abs().amax((1, 2, 3))
    assert 0.9 < crops.max() < 1.05  # at the level of the file: between its frames, so not quite its peak
    assert crops.min() < 0.5


def test_mixtures_have_a_greatest_amplitude_of_their_own_and_share_it_with_the_speech(toy):
    """The noise is the difference of the waveforms, at an even ratio in decibels; a short recording goes round."""
    made = replace(recipes.RECIPES["diffusion-supervised"], batch=400, frames=64)
    both = drawn_spectra(made, live(toy, lambda path, x: x[:4000] if path.startswith("noise") else x))
    assert both.shape == (400, 2, 257, 64)
    uniform(both[:, 1].abs().amax((1, 2)), made.quiet, 1.0)
    clean, noisy = NET.stft.inverse(NET.compression.inverse(both), 63 * 128).unbind(1)
    noise = noisy - clean
    torch.testing.assert_close(noise[:, 4000:], noise[:, :-4000], atol=1e-3 * float(noise.abs().max()), rtol=0)
    snr = 10 * (clean.square().mean(-1) / noise.square().mean(-1)).log10()
    uniform(snr, *made.snrs)
    pieces = toy.read("noise/train/street.flac")[:4000].tile(4).unfold(0, 63 * 128, 1)
    assert ((pieces @ noise[0]) / pieces.norm(dim=-1) / noise[0].norm()).max() > 0.999


# ------------------------------------------------------------- flows


class Density(torch.nn.Module):
    """A density that keeps what it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def log_prob(self, s, *noise):
        self.asked.append((s, *noise))
        return 2.0 * s.shape[-1] * torch.arange(len(s))


def test_segments_are_parts_of_files_at_one_level(toy):
    """A power of 1e-3 for each file, plus half a bit of dither either way."""
    made, corpus = replace(recipes.RECIPES["waveglow"], seconds=1.999, batch=40), Watched(toy.root, toy.table, "folder")
    s = made.segments(corpus, 0, False)[0](seeded())
    files = torch.stack([toy.read(path) for path in corpus.seen])
    gains = WaveGlow.rms / files.square().mean(-1, keepdim=True).sqrt()
    parts = files.unfold(1, s.shape[1], 1)
    places = distances(s, (gains[..., None] * parts).flatten(0, 1)).argmin(-1)
    assert len(places.unique()) > 25
    rows = places // parts.shape[1]
    dither = (s - gains[rows] * parts.flatten(0, 1)[places]) / gains[rows] * 2**15
    assert 0.49 < dither.abs().max() < 0.51
    assert abs(dither.double().mean()) < 4 * math.sqrt(1 / 12 / dither.numel()) + 1e-5


def test_the_density_of_noisy_speech_is_asked_with_the_noise_that_is_added():
    """And that of clean speech without; each is a mean over samples, and each segment is at a level of its own."""
    model, s = Density(), torch.randn(3, 160, generator=seeded())
    assert recipes.FlowRecipe().density(model, s, seeded()) == 2.0  # of 0, 2 and 4
    assert model.asked.pop()[0].equal(s)
    recipes.FlowRecipe().loss(model, torch.ones(4000, 1), seeded(), 0.0)
    uniform(20 * model.asked.pop()[0].log10()[:, 0], -5, 5)
    made, s = recipes.FlowRecipe(noise=(1e-3, 0.1)), torch.zeros(4000, 400)
    made.density(model, s, seeded())
    ((noisy, tau),) = model.asked
    level = noisy.square().mean(-1).sqrt() / tau
    torch.testing.assert_close(level, torch.ones(4000), atol=5 * (0.5 / 400) ** 0.5, rtol=0)
    uniform(tau.log10(), -3, -1)


def test_a_finished_flow_is_asked_in_half_precision():
    """What its file holds is what its likelihood of clean speech is of."""
    flow, s = drawn_flow(dtype=torch.float32, away=3), WaveGlow.rms * torch.randn(4, 160, generator=seeded())
    tensors, config, _ = recipes.FlowRecipe().finish(flow, s)
    got = WaveGlow.from_weights(weights.Weights(tensors, config))
    assert got.clean == round(float(got.log_prob(s).detach().mean()) / 160, 3)
    assert abs(got.clean - float(flow.log_prob(s).mean()) / 160) > 0.01
    assert flow.clean == math.inf  # what was given stays


# ------------------------------------------------------------- unpaired


def test_the_codec_is_given_no_clean_corpus(toy, monkeypatch):
    """What stands in the place of clean speech in a batch does not matter to it."""
    exact, kept = recipes.codec.drawing, []

    def without(*args, **kw):
        draw = exact(*args, **kw)
        return lambda g: draw(g) * torch.tensor([1.0, math.nan, 1.0])[:, None, None]

    for drawing in (exact, without):
        monkeypatch.setattr(recipes.codec, "drawing", drawing)
        learned = train.train("codec", toy, progress=False)
        kept.append(learned.tensors)
        assert learned.facts["clean_minutes"] == 0
        assert learned.facts["speech_minutes"] > 0
    assert all(a.equal(b) for a, b in zip(kept[0].values(), kept[1].values(), strict=True))


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


def test_a_separator_begins_as_a_published_codec(toy, server, tmp_path, monkeypatch):
    """Which is downloaded once, and tuned like ours; where it cannot be had the error says so."""
    torch.save(published(drawn_descript()), tmp_path / "served.pth")
    server.files["weights_16khz.pth"] = (tmp_path / "served.pth").read_bytes()
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(recipes.codec.DESCRIPT, "urls", [f"{server.url}/weights_16khz.pth"])
    made = SHIPPED["use-ddp-descript"].begun()
    assert isinstance(made, Descript)
    assert made.rates == (2, 4, 5, 8)
    learned = replace(SHIPPED["use-ddp"].smoke(), start="descript", steps=1).learn(toy, 0, False)
    assert len([path for path, _ in server.asked if path.endswith(".pth")]) == 1
    got = Descript.from_weights(weights.Weights(learned.tensors, learned.config))
    assert all(p.isfinite().all() for p in got.parameters())
    monkeypatch.setenv("SEPRIORS_CACHE", str(tmp_path / "other"))
    monkeypatch.setitem(recipes.codec.DESCRIPT, "urls", [f"{server.url}/gone.pth"])
    with pytest.raises(CorpusError, match=r"could not download weights_16khz\.pth"):
        SHIPPED["use-ddp-descript"].begun()


# ------------------------------------------------------------- embeddings, and masks from them


def ramps(made, **choices):
    """A batch, and for each clip its labels and the samples that their frames see: sounds that say where they are."""
    speech = [torch.arange(320 * 130) + 1e6 * k for k in (1, 2)]
    labels = [torch.arange(131) + 1000 * k for k in (1, 2)]
    batch = made.drawing(speech, labels, **choices)(seeded())
    N = batch.shape[1] - 50
    files = [torch.nn.functional.pad(x, (120, 1000)) for x in speech]
    starts = [divmod(int(y[0]), 1000) for y in batch[:, N:]]
    return batch[:, :N], batch[:, N:], starts, torch.stack([files[k - 1][320 * i : 320 * i + N] for k, i in starts])


def test_each_label_comes_with_the_samples_that_its_frame_sees():
    clips, labels, starts, exact = ramps(replace(recipes.RECIPES["ssl"], level_db=0.0, batch=50))
    assert clips.shape == (50, 320 * 49 + 400)
    for y, (k, i) in zip(labels, starts, strict=True):
        assert y.tolist() == [1000 * k + j for j in range(i, i + 50)]
    torch.testing.assert_close(clips, exact)
    assert len(set(starts)) > 30


def test_some_clips_are_in_noise_and_labels_stay(toy):
    """A half of them, at a ratio between the bounds; the others are what they were."""
    made = replace(recipes.RECIPES["ssl"], level_db=0.0, batch=200, snr_db=(0.0, 10.0))
    noise = Clips.of_noise(toy, toy.select(kind="noise", split="train", cls="street"), made.samples)
    clips, _, _, exact = ramps(made, noise=noise)
    missed, clean = (x.double().square().mean(-1) for x in (clips - exact, exact))
    assert 70 <= (missed > 0).sum() <= 130
    uniform(10 * (clean / missed).log10()[missed > 0], 0, 10)


def test_a_network_that_knows_guesses_all_and_one_that_does_not_guesses_by_chance():
    made = replace(recipes.RECIPES["ssl"], batch=4)
    logits = torch.randn(1000, 9, generator=seeded())
    logits[:, 0] = 10

    class Guesses(torch.nn.Module):
        def forward(self, x, y):
            return logits, logits, None

    batch = torch.zeros(4, 320 * 49 + 400 + 50)
    assert made.validate(Guesses(), batch) == 1
    expected = (logits.logsumexp(-1) - 10).mean()
    torch.testing.assert_close(made.loss(Guesses(), batch, seeded(), 0.5), expected)
    logits[:, 0] = torch.randn(1000, generator=seeded(1))
    assert made.validate(Guesses(), batch) == pytest.approx(1 / 9, abs=0.03)


def test_training_teaches_what_is_hidden(toy):
    """More hidden frames are guessed than by naming the most frequent class; each round is on record."""
    made: recipes.SSLRecipe = replace(recipes.RECIPES["ssl"], minutes=1.0, steps=(150, 1), batch=4, learning_rate=0.01)
    facts = made.learn(toy, 0, False).facts
    assert facts["valid_guessed_1"][-1] > facts["valid_most_frequent_1"] + 0.1
    assert (len(facts["valid_guessed_1"]), len(facts["valid_guessed_2"])) == (20, 1)
    assert 0 < facts["valid_most_frequent_2"] <= 1


@pytest.mark.parametrize("tuning", ["frozen", "part", "whole"])
def test_what_is_frozen_stays(toy, tuning):
    """To the last bit; and what is tuned moves, every tensor of it."""
    made = recipes.RECIPES["bsse"]
    made = replace(made, tuning=tuning, bench_files=0, learning_rate=20.0)  # four steps, and half precision
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


def test_the_cost_of_a_mask_is_least_for_who_knows():
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
