"""Self-supervised embeddings: a transformer that has learned to say what was hidden from it (`ssl`).

The architecture is wav2vec 2.0's (Baevski et al., 2020), by torchaudio: seven convolutions from samples to 50 frames a
second, then transformer layers. A small one is pretrained here as HuBERT was (Hsu et al., 2021); the published ones are
torchaudio's bundles. A waveform in, the embeddings of every layer out, is all that an enhancer sees of either.
"""

from __future__ import annotations

import difflib
import pickle
from typing import Any

import torch
import torchaudio
from torch import nn

from sepriors.priors.base import Configured
from sepriors.weights import WeightsError

BUNDLES = ("WAV2VEC2_BASE", "HUBERT_BASE", "WAVLM_BASE_PLUS")  # at 16 kHz, 12 layers of 768, 95 million parameters
FAULTS = (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError)  # network, disk, file
KERNELS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # and strides, those of wav2vec 2.0


class SSL(Configured):
    """Embeddings of speech, `layers` + 1 of them a frame: what enters the transformer, and what each layer makes of it.

    Frame i lies around sample 320 i + 80: between frames 2 i and 2 i + 1 of a spectrum with a hop of 160 samples, whose
    number sets ours, so that each frame repeated stands beside its spectrum.

    >>> net = SSL(width=8, layers=2, heads=2, inner=16, channels=(4, 4, 4, 4, 4, 4, 8))
    >>> net(torch.randn(3, 16000)).shape
    torch.Size([3, 3, 51, 8])
    """

    hop = 320  # samples
    field = 400  # that a frame sees before the transformer
    network: Any

    def __init__(
        self,
        width: int = 96,
        layers: int = 8,
        heads: int = 4,
        inner: int = 256,
        channels: tuple[int, ...] = (16, 32, 64, 96, 96, 96, 96),
    ) -> None:
        super().__init__()
        self.width, self.layers, self.heads, self.inner, self.channels = width, layers, heads, inner, channels
        self.network = torchaudio.models.wav2vec2_model(**self.settings, aux_num_out=None)

    @property
    def settings(self) -> dict[str, Any]:
        """What torchaudio's builders call these sizes. No dropout, and each frame normalised by itself."""
        return {
            "extractor_mode": "layer_norm",
            "extractor_conv_layer_config": [(C, *k) for C, k in zip(self.channels, KERNELS, strict=True)],
            "extractor_conv_bias": False,
            "encoder_embed_dim": self.width,
            "encoder_pos_conv_kernel": 64,
            "encoder_pos_conv_groups": self.heads,
            "encoder_num_layers": self.layers,
            "encoder_num_heads": self.heads,
            "encoder_ff_interm_features": self.inner,
            "encoder_layer_norm_first": True,
            "encoder_layer_drop": 0.0,
            **{f"encoder_{name}dropout": 0.0 for name in ("", "projection_", "attention_", "ff_interm_")},
        }

    @classmethod
    def from_bundle(cls, name: str, *, folder: str | None = None, progress: bool = True) -> SSL:
        """A published network by torchaudio's name of it, downloaded into `folder` (torch's if None), or found there.

        Raises WeightsError for an unknown name, with the nearest, and where it cannot be had.
        """
        if name not in BUNDLES:
            near = difflib.get_close_matches(name.upper(), BUNDLES, n=2, cutoff=0.3) or BUNDLES
            raise WeightsError(f"unknown bundle {name!r}; did you mean {' or '.join(near)}?")
        bundle = getattr(torchaudio.pipelines, name)
        wanted = {"model_dir": folder, "progress": progress, "weights_only": True}
        try:
            network = bundle.get_model(dl_kwargs=wanted)
        except FAULTS as error:
            raise WeightsError(
                f"{name}: expected to download it, or to find it in {folder or 'the cache of torch.hub'}, got "
                f"{type(error).__name__}: {error}; the small one comes with this package: load('ssl')"
            ) from error
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.network = network.requires_grad_(False).eval()
        made.layers, made.width = len(made.transformer.layers), made.transformer.layer_norm.normalized_shape[0]
        return made

    @property
    def transformer(self) -> Any:
        """What fine-tuning 'in part' tunes: all but the convolutions."""
        return self.network.encoder.transformer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) at 16 kHz -> embeddings (layers + 1, B, T, D), T = ceil((1 + ceil(N / 160)) / 2).

        Raises ValueError for another shape.
        """
        if x.ndim != 2 or not x.numel():
            raise ValueError(f"expected waveforms (B, N) of one sample at least, got {tuple(x.shape)}")
        features, _ = self.network.feature_extractor(framed(x), None)
        h, _ = self.network.encoder._preprocess(features)
        return torch.stack([h, *self.transformer.get_intermediate_outputs(h)])


def frames(length: Any) -> Any:
    """T of so many samples, a number or a tensor of them: half as many as frames of a spectrum with a hop of 160."""
    return (2 + -(-length // 160)) // 2


def framed(x: torch.Tensor) -> torch.Tensor:
    """Waveforms with the zeros at either side that make T frames of them, each around sample 320 i + 80."""
    before = SSL.field // 2 - SSL.hop // 4
    return nn.functional.pad(x, (before, SSL.hop * (frames(x.shape[-1]) - 1) + SSL.field - before - x.shape[-1]))


def distance(a: torch.Tensor, b: torch.Tensor, kind: str = "L2") -> torch.Tensor:
    """How far embeddings (..., T, D) lie apart, mean over frames (...), each frame at a mean of 0 and a power of 1.

    'L1' is the mean absolute difference of a frame, 'L2' its root mean square, 'cosine' one minus the cosine: half the
    square of L2. Of clean speech and the same speech in noise it is the clean-noisy distance (Hung et al., 2022, whose
    formula could not be found; this is ours). Raises ValueError for another kind.

    >>> a = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    >>> distance(a, 3 * a, "L2"), distance(a, -a, "cosine")
    (tensor(0.), tensor(2.))
    """
    a, b = (nn.functional.layer_norm(x, x.shape[-1:], eps=1e-12) for x in (a, b))
    each = {"L1": (a - b).abs().mean(-1), "L2": (a - b).square().mean(-1).sqrt(), "cosine": 1 - (a * b).mean(-1)}
    if kind not in each:
        raise ValueError(f"expected a distance of {', '.join(each)}, got {kind!r}")
    return each[kind].mean(-1)
