"""Speed of what the book runs most, as real-time factors and as ratios within one run.

    python benchmarks/speed.py [--threads 2] [--repeats 5]

A number without its setting means little: each row names its batch; threads and allocator are printed first.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

import sepriors as sp
from sepriors import metrics, precision
from sepriors.inference import flows
from sepriors.signal import gaussian

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


SPINS = {
    "as torch has it": {},
    "spin briefly": {"GOMP_SPINCOUNT": "1000"},
    "never spin": {"OMP_WAIT_POLICY": "PASSIVE"},
}
SPINNING = """
import sys, time
import torch, sepriors as sp
x, method = 0.1 * torch.randn(4, 64000, generator=torch.Generator().manual_seed(0)), sp.make(sys.argv[1])
sp.enhance(x[:1, :8000], method)
start = time.perf_counter()
sp.enhance(x, method)
print(time.perf_counter() - start)
"""


@contextmanager
def company(count: int) -> Iterator[None]:
    """So many processes that only count, beside what is measured."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def spinning(repeats: int) -> None:
    """How long OpenMP's threads spin while they wait, on an idle machine and on a busy one; seconds for 4 × 4 s."""
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    columns = [(name, busy) for name in ("nmf", "vae-ldem") for busy in (0, 1, 2)]
    print("threads that ...".ljust(20) + "".join(f"{f'{name}, {busy} busy':>18}" for name, busy in columns))
    for label, variables in SPINS.items():
        row = []
        for name, busy in columns:
            command = [sys.executable, "-c", SPINNING, name]
            with company(busy):
                runs = [
                    float(subprocess.run(command, env=clean | variables, capture_output=True, check=True).stdout)
                    for _ in range(repeats)
                ]
            row.append(min(runs))
        print(label.ljust(20) + "".join(f"{seconds:18.2f}" for seconds in row), flush=True)


def denoising(fast: bool) -> Callable[[], object]:
    """One call of the score network on 4 s."""
    net = sp.priors.load("score")
    net.fast = fast
    x = 0.1 * torch.randn(1, 257, 501, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0))
    return torch.inference_mode()(lambda: net.denoise(x, 0.3))


def decoding(fast: bool) -> Callable[[], object]:
    """The gradient of the recurrent VAE's variance on four files of 4 s."""
    net = sp.priors.load("rvae")
    net.fast = fast
    z = torch.randn(4, 16, 251, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return lambda: torch.autograd.grad(net.log_variance(z).sum(), z)


def one_step_of_map(x: torch.Tensor, fast: bool) -> Callable[[], object]:
    """The gradient of the posterior at x: nearly all that a step of `signals.climb` costs."""
    target = flows.SignalPosterior(sp.priors.load("waveglow"), 0.3 * x, torch.full((len(x),), 1e-3), fast)
    return lambda: target.score(target.x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=metrics.workers())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only the rows whose name holds this")
    parser.add_argument("--spin", action="store_true", help="only the table of threads that wait, idle and busy")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")} or "default"
    half = precision.half("cpu") or "single precision, it has no half"
    print(f"torch {torch.__version__}, {args.threads} threads, allocator {allocator}; this CPU: {half}\n")
    if args.spin or not args.only:
        spinning(1 if not args.spin else args.repeats)
        print()
    if args.spin:
        return

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
    scored = {"udiffse": 5.0, "udiffse-plus": 1.0, "depse": None, "udiffse-fast": 0.5, "diffusion-supervised": None}
    for name, goal in scored.items():
        row(name, 4, lambda n=name: sp.enhance(x[:4], sp.make(n)), goal)
    for name in ("use-ddp", "bsse"):
        row(name, 4, lambda n=name: sp.enhance(x[:4], sp.make(n)), 0.1)
    for fast in (True, False):
        kind = "bf16" if fast else "fp32"
        for batch in (1, 16):
            row(f"a step of flow MAP, couplings in {kind}", batch, one_step_of_map(x[:batch], fast))
        row(f"a call of the score network in {kind}", 1, denoising(fast))
        row(f"a gradient of the RVAE's decoder in {kind}", 4, decoding(fast))
    for name in ("flow-tweedie", "flow-langevin"):
        row(name, 16, lambda n=name: sp.enhance(x, sp.make(n)))
    noisy = x + 0.1 * torch.randn_like(x)
    row("fwSNRseg", 1, lambda: metrics.fwsnrseg(x[0], noisy[0]), 0.0025)
    for name in ("pesq_wb", "stoi", "dnsmos_ovr"):
        row(name, 1, lambda n=name: [metrics._dnsmos.cache_clear(), metrics.score(x[0], noisy[0], RATE, [n])])

    print(f"{'':42}{'batch':>6}{'real-time factor':>18}{'goal':>8}")
    for name, batch, factor, goal in rows:
        print(f"{name:42}{batch:6}{factor:18.4f}{'' if goal is None else f'{goal:8.4f}'}")
    print(f"\nnmf in a batch of 16 against NumPy, one file: {floor / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
