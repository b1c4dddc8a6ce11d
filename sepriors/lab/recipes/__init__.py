"""Recipes: what the weights of each card of `cards.toml` are learned by, a family a file; `train` follows them."""

import difflib
from dataclasses import replace

from sepriors.lab.recipes.base import Learned, LongRecipe, OfOneCorpus, Recipe, spectra
from sepriors.lab.recipes.bsse import PairedRecipe
from sepriors.lab.recipes.codec import CodecRecipe, UnpairedRecipe
from sepriors.lab.recipes.flow import FlowRecipe
from sepriors.lab.recipes.nmf import NMFRecipe
from sepriors.lab.recipes.npe import NPERecipe
from sepriors.lab.recipes.rvae import RVAERecipe
from sepriors.lab.recipes.score import ScoreRecipe
from sepriors.lab.recipes.ssl import SSLRecipe
from sepriors.lab.recipes.vae import VAERecipe
from sepriors.lab.training.adversarial import LossWeights
from sepriors.signal.stft import STFT

__all__ = [
    "RECIPES", "CodecRecipe", "FlowRecipe", "Learned", "LongRecipe", "NMFRecipe", "NPERecipe", "OfOneCorpus",
    "PairedRecipe", "RVAERecipe", "Recipe", "SSLRecipe", "ScoreRecipe", "UnpairedRecipe", "VAERecipe", "recipe",
    "spectra",
]  # fmt: skip

LIBRISPEECH = {"corpus": ("mini-librispeech", "librispeech")}
PAIRED = PairedRecipe(select=LIBRISPEECH, shipped=False)
RECIPES: dict[str, Recipe] = {
    "nmf-speech": NMFRecipe(64, STFT(1024, 256), select=LIBRISPEECH),
    "nmf-speech-257": NMFRecipe(40, STFT(512, 128), select=LIBRISPEECH),
    "nmf-noise-257": NMFRecipe(40, STFT(512, 128), kind="noise", minutes=12.0),
    "nmf-white-257": NMFRecipe(40, STFT(512, 128), kind="white", minutes=12.0),
    "vae": VAERecipe(STFT(1024, 256), select=LIBRISPEECH),
    "vae-257": VAERecipe(STFT(512, 128), select=LIBRISPEECH, epochs=20),
    "rvae": RVAERecipe(STFT(1024, 256), select=LIBRISPEECH, steps=20_000),
    "vae-background": VAERecipe(STFT(1024, 256), select=LIBRISPEECH, background=True),
    "waveglow": FlowRecipe(select=LIBRISPEECH, steps=20_000),
    "waveglow-noisy": FlowRecipe(select=LIBRISPEECH, noise=(3e-4, 0.1), steps=20_000),
    "waveglow-windows": FlowRecipe(select=LIBRISPEECH, context=False, steps=5000),
    "maf": FlowRecipe(select=LIBRISPEECH, family="maf", hidden=256, steps=4000),
    "waveglow-companded": FlowRecipe(select=LIBRISPEECH, mu=255.0, steps=6000),
    "score": ScoreRecipe(select=LIBRISPEECH),
    "diffusion-supervised": ScoreRecipe(conditional=True, select=LIBRISPEECH),
    "codec": CodecRecipe(),
    "use-ddp": UnpairedRecipe(),
    "use-ddp-out-of-domain": UnpairedRecipe(clean="out-of-domain"),
    "use-ddp-close-talk": UnpairedRecipe(clean="close-talk"),
    "use-ddp-seed1": UnpairedRecipe(seed=1, shipped=False),
    "use-ddp-scratch": UnpairedRecipe(start=None, shipped=False),
    "use-ddp-no-adversaries": UnpairedRecipe(weights=LossWeights(adversarial=0.0, matching=0.0), shipped=False),
    "use-ddp-no-cycle": UnpairedRecipe(weights=LossWeights(cycle=0.0, cycle_spectra=0.0), shipped=False),
    "use-ddp-descript": UnpairedRecipe(start="descript", shipped=False),
    "ssl": SSLRecipe(select=LIBRISPEECH, steps=(4000, 6000)),
    "npe": NPERecipe(select=LIBRISPEECH),
    "npe-generic": NPERecipe(select=LIBRISPEECH, knowledge="generic"),
    "npe-pairs": NPERecipe(select=LIBRISPEECH, knowledge="recorded"),
    "bsse": replace(PAIRED, steps=6000, shipped=True),
    "bsse-whole": PAIRED,  # as long as the others of the comparison
    "bsse-spectrum": replace(PAIRED, inputs="spectrum", start=None, shipped=True),
    "bsse-frozen": replace(PAIRED, tuning="frozen"),
    "bsse-part": replace(PAIRED, tuning="part"),
    "bsse-embeddings": replace(PAIRED, inputs="embeddings"),
    "bsse-embeddings-frozen": replace(PAIRED, inputs="embeddings", tuning="frozen"),
    "bsse-embeddings-part": replace(PAIRED, inputs="embeddings", tuning="part"),
    **{f"bsse-frozen-seed{i}": replace(PAIRED, tuning="frozen", seed=i, bench_files=0) for i in (1, 2)},
    **{f"vae-seed{i}": VAERecipe(STFT(1024, 256), select=LIBRISPEECH, seed=i) for i in (1, 2, 3)},
}


def recipe(name: str) -> Recipe:
    """The recipe of a card; raises ValueError for an unknown one, with the nearest."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"no recipe for weights {name!r}; did you mean {' or '.join(near)}?")
    return RECIPES[name]
