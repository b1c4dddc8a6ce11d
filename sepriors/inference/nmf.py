"""Non-negative matrix factorisation under the Itakura-Saito divergence: the one M-step of the book."""

from typing import NamedTuple

import torch

from sepriors.signal.gaussian import FLOOR
from sepriors.signal.rng import Generators, rand


class NMF(NamedTuple):
    """A low-rank variance: bases W (..., F, K) times activations H (..., K, T)."""

    W: torch.Tensor
    H: torch.Tensor

    @property
    def variance(self) -> torch.Tensor:
        """V = W H, (..., F, T)."""
        return self.W @ self.H


def init(P: torch.Tensor, rank: int, generators: Generators, W: torch.Tensor | None = None) -> NMF:
    """A random factorisation at the level of the power P (B, F, T): columns of W sum to 1, WH is about the mean of P.

    Given bases W (F, K) or (B, F, K) they are kept, and only H is drawn (`rank` is then their K).

    >>> from sepriors.signal.rng import generators
    >>> init(torch.rand(2, 5, 7), rank=3, generators=generators(0, 2)).variance.shape
    torch.Size([2, 5, 7])
    """
    B, F, T = P.shape
    if W is None:
        W = rand((F, rank), generators, P) + 0.1  # away from zero, where a multiplicative update would stay
    _check(W, P)
    W = (W / W.sum(-2, keepdim=True)).expand(B, -1, -1)
    K = W.shape[-1]
    level = P.mean((-2, -1), keepdim=True).clamp_min(FLOOR) * (F / K)
    return NMF(W, level * (rand((K, T), generators, P) + 0.5))


def update(
    model: NMF, power: torch.Tensor, offset: torch.Tensor | None = None, *, bases: bool = True, floor: float = FLOOR
) -> NMF:
    r"""One multiplicative update of W, then of H, that never raises $\sum_r d_{IS}(P_r \mid O_r + WH)$.

    Majorise-minimise for the Itakura-Saito divergence (Févotte & Idier, 2011, § 4.1; with several draws r: Leglaive,
    Girin & Horaud, 2018, eqs. 25-26), with $V_r = O_r + WH$:

    $$ W \leftarrow W \circ \Big( \tfrac{\sum_r (P_r V_r^{-2}) H^\top}{\sum_r V_r^{-1} H^\top} \Big)^{1/2}, \qquad
       H \leftarrow H \circ \Big( \tfrac{W^\top \sum_r P_r V_r^{-2}}{W^\top \sum_r V_r^{-1}} \Big)^{1/2} $$

    power and offset (R, ..., F, T), R draws from a posterior; `bases=False` keeps W. Returns a fresh model; the columns
    of W sum to 1. Raises ValueError where power and W differ in F.

    >>> from sepriors.signal.gaussian import is_divergence
    >>> from sepriors.signal.rng import generators
    >>> P = torch.rand(1, 5, 7)
    >>> old = init(P, rank=2, generators=generators(0, 1))
    >>> new = update(old, P[None])
    >>> bool(is_divergence(P, new.variance) <= is_divergence(P, old.variance))
    True
    """
    W, H = model
    _check(W, power)
    P, O = power, torch.zeros_like(power) if offset is None else offset
    if bases:
        V = (O + W @ H).clamp_min(floor)
        W = W * (((P / V**2) @ H.mT).sum(0) / ((1 / V) @ H.mT).sum(0)).sqrt()
        W, H = _normalised(W.clamp_min(floor), H)
    V = (O + W @ H).clamp_min(floor)
    H = H * ((W.mT @ (P / V**2)).sum(0) / (W.mT @ (1 / V)).sum(0)).sqrt()
    return NMF(W, H.clamp_min(floor))


def fast_update(
    model: NMF,
    power: torch.Tensor,
    offset: torch.Tensor | None = None,
    *,
    bases: bool = True,
    variance: torch.Tensor | None = None,
    floor: float = FLOOR,
) -> NMF:
    """`update`, a draw after the other, whose arrays stay in cache: up to three times as fast, and what EM calls.

    `variance` is W H, if it is at hand.
    """
    W, H = model
    _check(W, power)
    if bases:
        A, B = _ratios(power, W @ H if variance is None else variance, offset, floor)
        # not A @ H.mT: there the last bit depends on how memory is aligned, hence on an utterance's place in the batch
        W, H = _normalised((W * ((H @ A.mT) / (H @ B.mT)).sqrt().mT).clamp_min(floor), H)
        variance = None
    A, B = _ratios(power, W @ H if variance is None else variance, offset, floor)
    return NMF(W, (H * ((W.mT @ A) / (W.mT @ B)).sqrt()).clamp_min(floor))


def _check(W: torch.Tensor, P: torch.Tensor) -> None:
    F, F_W = P.shape[-2], W.shape[-2]
    if F != F_W:
        raise ValueError(f"power has F={F} but W has F={F_W}; were they made with the same STFT?")


def _normalised(W: torch.Tensor, H: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product, the columns of W summing to 1."""
    scale = W.sum(-2, keepdim=True)
    return W / scale, H * scale.mT


def _ratios(
    power: torch.Tensor, WH: torch.Tensor, offset: torch.Tensor | None, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over draws of P / V² and 1 / V (..., F, T): memory-bound, the largest cost of the book's NMF."""
    total: list[torch.Tensor] = []
    for r, P_r in enumerate(power):
        V = WH.clone() if offset is None else WH + offset[r]
        B = V.reciprocal_().clamp_max_(1 / floor)
        A = torch.mul(B, B).mul_(P_r)
        total = [total[0].add_(A), total[1].add_(B)] if total else [A, B]
    A, B = total
    return A, B


def shorter(model: NMF, ratio: int, frames: int) -> NMF:
    """The same spectra by windows and hops that are shorter by a whole ratio, so many frames of them.

    Every ratio-th bin, each frame ratio times; a window of white noise that is so much shorter has as much less power.

    >>> model = shorter(NMF(torch.rand(513, 8), torch.rand(8, 10)), ratio=2, frames=19)
    >>> model.variance.shape
    torch.Size([257, 19])
    """
    return NMF(model.W[..., ::ratio, :], model.H.repeat_interleave(ratio, -1)[..., :frames] / ratio)


def fit(P: torch.Tensor, rank: int, *, iterations: int, generators: Generators) -> NMF:
    """The factorisation of a power spectrogram P (B, F, T) after so many updates of both factors."""
    model = init(P, rank, generators)
    for _ in range(iterations):
        model = fast_update(model, P[None])
    return model
