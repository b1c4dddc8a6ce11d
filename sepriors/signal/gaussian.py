r"""The local complex Gaussian model: $s_{ft} \sim \mathcal{N}_c(0, V_{ft})$, independent over bins.

What the variance priors of the book need from it: the likelihood, the divergence it amounts to, the posterior mean.
"""

import math

import torch

FLOOR = 1e-12  # power; far below the 4e-8 that 16-bit quantisation leaves in a bin, keeps 1/V finite


def is_divergence(P: torch.Tensor, V: torch.Tensor, floor: float = FLOOR) -> torch.Tensor:
    r"""Itakura-Saito divergence $\sum_{ft} P/V - \log(P/V) - 1$ (Févotte, Bertin & Durrieu, 2009, eq. 2), nats.

    P power (..., F, T), V variance (..., F, T) -> (...). Both are floored, so silence costs a finite amount.

    >>> P = torch.rand(3, 4, 5) + 0.1
    >>> is_divergence(P, P)
    tensor([0., 0., 0.])
    """
    ratio = P.clamp_min(floor) / V.clamp_min(floor)
    return (ratio - ratio.log() - 1).sum((-2, -1))


def log_likelihood(
    P: torch.Tensor, V: torch.Tensor, floor: float = FLOOR, dim: int | tuple[int, ...] = (-2, -1)
) -> torch.Tensor:
    r"""Log-likelihood $-\sum_{ft} \log \pi V + P/V$ of $x \sim \mathcal{N}_c(0, V)$ with $P = |x|^2$, nats.

    P power (..., F, T), V variance (..., F, T) -> (...), or with `dim=-2` of each frame (..., T); floored as in
    `is_divergence`. Up to the
    constant $\sum_{ft} 1 + \log \pi P$ it is minus `is_divergence` (Févotte et al., 2009, theorem 1).
    """
    V = V.clamp_min(floor)
    return -(math.log(math.pi) + V.log() + P.clamp_min(floor) / V).sum(dim)


def wiener(X: torch.Tensor, V_s: torch.Tensor, V_n: torch.Tensor, floor: float = FLOOR) -> torch.Tensor:
    r"""Posterior mean $\mathbb{E}[s \mid x] = \frac{V_s}{V_s + V_n} x$ (Shi et al., 2021, eq. 5), (..., F, T).

    >>> X, V_s, V_n = torch.randn(5, 7, dtype=torch.cfloat), torch.rand(5, 7), torch.rand(5, 7)
    >>> torch.testing.assert_close(wiener(X, V_s, V_n) + wiener(X, V_n, V_s), X)
    """
    return V_s / (V_s + V_n).clamp_min(floor) * X
