r"""Can a likelihood tell speech from what is not? Scores of power spectrograms, each higher where a clip looks more like speech.

All take what a prior says of a clip's frames and give one number a clip. `auroc` judges a score: the chance that a clip of
clean speech scores higher than an impostor.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import torch

from .claims import Estimate


def level_normalised(P: torch.Tensor) -> torch.Tensor:
    r"""Power spectrograms at one level: each clip's mean power is 1 (its density then knows only of the shape).

    A density of $s$ carries units: where $s$ is scaled by $a$, $\log p$ of F bins moves by $-2F \log a$, whatever it says of the
    shape. P (..., F, T). Silence stays as it is.

    >>> P = torch.rand(2, 3, 4)
    >>> torch.testing.assert_close(level_normalised(0.01 * P), level_normalised(P))
    """
    mean = P.mean((-2, -1), keepdim=True)
    return P / torch.where(mean > 0, mean, 1)
