"""What every method needs of a GPU: real-time factor and peak memory, for a batch of short files and for one long one.

    python benchmarks/gpu.py [-o benchmarks/gpu.json] [--methods nmf,bsse] [--device cuda]

A batch is cut into parts (`batch_size`) and a long file into segments (`max_seconds`), so neither needs more than its
row says.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

import sepriors as sp
from sepriors import methods
from sepriors.lab import bench

RATE = 16000
SHAPES = {"a batch of 16 × 4 s": (16, 4), "a file of 60 s": (1, 60)}
LIMIT = 16e9  # bytes; the smallest GPU that notebooks are usually lent


def measure(name: str, x: torch.Tensor) -> dict[str, object]:
    """One run, after one of a second that does not count: the first compiles and fills caches."""
    method = sp.make(name)
    sp.enhance(x[:1, :RATE], method)
    torch.cuda.synchronize(x.device)
    torch.cuda.reset_peak_memory_stats(x.device)
    start = time.perf_counter()
    speech = sp.enhance(x, method)
    torch.cuda.synchronize(x.device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(x.device) / 1e6
    return {
        "method": name,
        "rtf": seconds / (x.numel() / RATE),
        "peak_gpu_mb": peak,
        "finite": bool(speech.isfinite().all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, help="also write the records, .json")
    parser.add_argument("--methods", default=",".join(methods.METHODS))
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    rows = []
    with tqdm(total=len(SHAPES) * len(args.methods.split(",")), unit="run", disable=None) as bar:
        for name in args.methods.split(","):
            for shape, (files, seconds) in SHAPES.items():
                generator = torch.Generator().manual_seed(0)
                x = 0.03 * torch.randn(files, seconds * RATE, generator=generator).to(args.device)
                rows.append({"input": shape, **measure(name, x)})
                print(json.dumps(rows[-1]), flush=True)
                bar.update()
                if args.out:  # after each row: what a broken run has measured is kept
                    facts = {"commit": bench.commit(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
                    args.out.write_text(json.dumps({**facts, "records": rows}, indent=1))
    most = max(rows, key=lambda row: row["peak_gpu_mb"])
    print(f"most memory: {most['method']}, {most['input']}, {most['peak_gpu_mb']:.0f} MB of {LIMIT / 1e6:.0f}")


if __name__ == "__main__":
    main()
