"""How much of what a VAE gains is settings: the sources' own, and where we start."""

from collections.abc import Mapping
from dataclasses import replace

import sepriors as sp
from sepriors.inference import latent, mcmc
from sepriors.lab.studies import OnSet
from sepriors.methods import NoiseEM

CARDS = ("vae",)
SETS = ("matched",)


def vary(method: NoiseEM, **changes: object) -> NoiseEM:
    """The method with another E-step."""
    return replace(method, estep=method.estep._replace(**changes))


def settings() -> Mapping[str, NoiseEM]:
    """Those of Leglaive et al. (2018), of Sadeghi & Serizel (2024), and two starts."""
    mcem, ldem, peem = (sp.make(name) for name in ("vae-mcem", "vae-ldem", "vae-peem"))
    theirs = latent.MCMC(
        mcmc.RandomWalk(0.01), steps=40, keep=10, final_steps=100, final_keep=25
    )
    plain = vary(
        ldem,
        latent=latent.MCMC(
            mcmc.Langevin(0.01), steps=1, chains=10, start_variance=0.01
        ),
        gain=False,
    )
    ten = ldem.estep.latent._replace(chains=10, final_times=1)
    return {
        "vae-mcem, 40 plain steps, 10 draws": vary(mcem, latent=theirs),
        "vae-ldem, ten states in every round": vary(ldem, latent=ten),
        "vae-ldem, ten states, plain steps, no gain, at −20 dB": plain,
        "vae-ldem, ten states, plain steps, no gain, at 0 dB": vary(
            plain, initial_gain=1.0
        ),
        "vae-ldem, from 0 dB": vary(ldem, initial_gain=1.0),
        "vae-peem, from 0 dB": vary(peem, initial_gain=1.0),
    }


study = OnSet("matched", settings, (0.0,), ("si_sdr", "pesq_wb", "estoi"), files=24)
parts, measure = study.parts, study.measure
