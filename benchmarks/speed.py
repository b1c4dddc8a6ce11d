"""Speed of what the book runs most, as real-time factors and as ratios within one run.

    python benchmarks/speed.py [--threads 2] [--repeats 5]

A number without its setting means little: each row names its batch; threads and allocator are printed first.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch

import sepriors as sp
from sepriors import gaussian, metrics, signals

SECONDS, RATE = 4, 16000


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def numpy_nmf(x: np.ndarray, W_s: np.ndarray, rank: int, iterations: int) -> np.ndarray:
    """The same 100 updates for one file, in plain NumPy: the floor that a batch has to beat."""
    stft = sp.STFT(1024, 256)
    X = stft(torch.from_numpy(x)).numpy()
    P = np.abs(X) ** 2
    rng = np.random.default_rng(0)
    W_n, H_n = rng.random((P.shape[0], rank), np.float32) + 0.1, rng.random((rank, P.shape[1]), np.float32) + 0.5
    H_s = rng.random((W_s.shape[1], P.shape[1]), np.float32)
    V_s = W_s @ H_s
    for _ in range(iterations):
        B = 1 / (V_s + W_n @ H_n)
        H_s *= np.sqrt((W_s.T @ (P * B * B)) / (W_s.T @ B))
        V_s = W_s @ H_s
        B = 1 / (V_s + W_n @ H_n)
        W_n *= np.sqrt(((P * B * B) @ H_n.T) / (B @ H_n.T))
        B = 1 / (V_s + W_n @ H_n)
        H_n *= np.sqrt((W_n.T @ (P * B * B)) / (W_n.T @ B))
    Y = gaussian.wiener(torch.from_numpy(X), torch.from_numpy(V_s), torch.from_numpy(W_n @ H_n))
    return stft.inverse(Y, len(x)).numpy()


def one_step_of_map(x: torch.Tensor, fast: bool) -> Callable[[], object]:
    """The gradient of the posterior at x: nearly all that a step of `signals.climb` costs."""
    target = signals.SignalPosterior(sp.priors.load("waveglow"), 0.3 * x, torch.full((len(x),), 1e-3), fast)
    return lambda: target.score(target.x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=metrics.workers())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only the rows whose name holds this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default"
    print(f"torch {torch.__version__}, {args.threads} threads, allocator {allocator}\n")

    x = 0.1 * torch.randn(16, SECONDS * RATE, generator=torch.Generator().manual_seed(0))
    W = sp.load("nmf-speech").tensors["W"]
    rows: list[tuple[str, int, float, float | None]] = []

    def row(name: str, batch: int, run: Callable[[], object], goal: float | None = None) -> float:
        if args.only not in name:
            return math.nan
        factor = fastest(run, args.repeats) / (batch * SECONDS)
        rows.append((name, batch, factor, goal))
        return factor

    floor = row("IS-NMF 64 + 8, 100 updates, NumPy", 1, lambda: numpy_nmf(x[0].numpy(), W.numpy(), 8, 100))
    for batch in (1, 4, 16):
        goal = 0.015 if batch == 16 else None
        ours = row("nmf (64 + 8, 100 updates)", batch, lambda b=batch: sp.enhance(x[:b], sp.make("nmf")), goal)
    row("nmf-supervised (40 + 40, 257 bins)", 16, lambda: sp.enhance(x, sp.make("nmf-supervised")))
    row("spp-wiener", 16, lambda: sp.enhance(x, sp.SPPWiener()))
    for name, goal in (("vae-mcem", 0.15), ("vae-ldem", 0.15), ("vae-peem", None), ("vae-vem", None)):
        for batch in (1, 16):
            row(name, batch, lambda b=batch, n=name: sp.enhance(x[:b], sp.make(n)), goal if batch == 16 else None)
    recurrent = {"vem": 0.37, "mhem": 0.17, "ldem": 0.13, "malaem": 0.44, "peem": None, "fast": 0.05}
    for name, goal in ((f"rvae-{use}", goal) for use, goal in recurrent.items()):
        for batch in (1, 16):
            row(name, batch, lambda b=batch, n=name: sp.enhance(x[:b], sp.make(n)), goal if batch == 16 else None)
    scored = {"udiffse": 5.0, "udiffse-plus": 1.0, "depse": None, "udiffse-fast": 0.5, "sgmse": None}
    for name, goal in scored.items():
        row(name, 4, lambda n=name: sp.enhance(x[:4], sp.make(n)), goal)
    for name in ("use-ddp", "bsse"):
        row(name, 4, lambda n=name: sp.enhance(x[:4], sp.make(n)), 0.1)
    for fast in (True, False):
        for batch in (1, 16):
            name = f"a step of flow MAP, couplings in {'bf16' if fast else 'fp32'}"
            step = one_step_of_map(x[:batch], fast)
            row(name, batch, step, 0.01 if batch == 16 and fast else None)
    for name in ("flow-tweedie", "flow-langevin"):
        row(name, 16, lambda n=name: sp.enhance(x, sp.make(n)))
    noisy = x + 0.1 * torch.randn_like(x)
    row("fwSNRseg", 1, lambda: metrics.fwsnrseg(x[0], noisy[0]), 0.0025)
    for name in ("pesq_wb", "stoi", "dnsmos_ovr"):
        row(name, 1, lambda n=name: [metrics._dnsmos.cache_clear(), metrics.score(x[0], noisy[0], RATE, [n])])

    print(f"{'':38}{'batch':>6}{'real-time factor':>18}{'goal':>8}")
    for name, batch, factor, goal in rows:
        print(f"{name:38}{batch:6}{factor:18.4f}{'' if goal is None else f'{goal:8.4f}'}")
    print(f"\nnmf in a batch of 16 against NumPy, one file: {floor / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
