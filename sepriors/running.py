"""`enhance`: a method run on files of any length, in batches, side by side, at any rate; the way in and the way out."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from sepriors.methods import make
from sepriors.protocols import Method, Segment
from sepriors.signal.audio import AudioError, check, dc_offset, resample
from sepriors.signal.rng import Seed, generators

RATE = 16000  # Hz, of every method
OVERLAP = 1.0  # seconds that two segments of a long file share
GPU_BATCH_SECONDS = 64.0  # seconds of audio that are taken at once: 16 files of 4 s, 2 segments of a long one

Signals = TypeVar("Signals", torch.Tensor, np.ndarray, list[torch.Tensor], list[np.ndarray])


def enhance(x: Signals, method: Method | str, seed: Seed = 0, *, sample_rate: int = RATE) -> Signals:
    """Run a method, or the one of a name, to its end: noisy speech (..., N) -> enhanced speech (..., N).

    Tensors and NumPy arrays come back as they came, half precision computed in single; at another `sample_rate` than
    16 kHz (Hz) they are resampled there and back. Utterances of different lengths, each (N,), come and go as a list.
    One seed, one result: an utterance gives the same alone and in a batch, but for rounding. `seed` may be a sequence,
    one an utterance. A file longer than the method's `running.max_seconds` is cut into segments that overlap by a
    second, and faded from one to the next. A DC offset is taken away before, and put back after.
    Raises AudioError for NaN, integers, an empty signal, or samples where channels should be, MethodError for an
    unknown name.

    >>> enhance(torch.randn(3, 8000), "spp-wiener").shape
    torch.Size([3, 8000])
    >>> [len(s) for s in enhance([torch.randn(8000), torch.randn(5000)], "spp-wiener", sample_rate=8000)]
    [8000, 5000]
    """
    made = make(method) if isinstance(method, str) else method
    if isinstance(x, list):
        rows = [check(_tensor(row), f"noisy, {i + 1} of {len(x)}") for i, row in enumerate(x)]
        for row in rows:
            if row.ndim != 1:
                raise AudioError(f"expected utterances of shape (N,) in a list, got {tuple(row.shape)}")
        speech = _at_rate(rows, made, seed, sample_rate)
        return [_as_came(s, came) for s, came in zip(speech, x, strict=True)]
    batch = check(_tensor(x), "noisy")
    if batch.ndim == 2 and len(batch) > 10 * batch.shape[1]:
        files, samples = batch.shape
        raise AudioError(
            f"noisy: expected utterances (..., N), got {files} of {samples} samples; a file as soundfile gives it, "
            "(N, channels), is to be transposed"
        )
    rows = list(batch.reshape(-1, batch.shape[-1]))
    return _as_came(torch.stack(_at_rate(rows, made, seed, sample_rate)).reshape(batch.shape), x)


def _tensor(x: Any) -> Any:
    """A NumPy array as a tensor of its own; anything else is for `check` to look at."""
    return torch.tensor(x) if isinstance(x, np.ndarray) and x.dtype.kind in "fciub" else x


def _as_came(speech: torch.Tensor, came: Any) -> Any:
    """Speech in the dtype, and of the kind, of what came."""
    if isinstance(came, np.ndarray):
        return speech.numpy().astype(came.dtype)
    return speech.to(came.dtype)


def _at_rate(rows: list[torch.Tensor], method: Method, seed: Seed, sample_rate: int) -> list[torch.Tensor]:
    """The speech in checked signals (N,), in single precision at least, as long as they are, at their rate."""
    rows = [row.to(torch.promote_types(row.dtype, torch.float32)) for row in rows]
    # no prior was trained with an offset: .03 beside speech of .068 costs `bsse` 3 dB of SI-SDR, `flow-tweedie` 6
    offsets = [dc_offset(row, sample_rate) for row in rows]
    pairs = list(zip(rows, offsets, strict=True))
    speech = _enhance([resample(row - offset, sample_rate, RATE) for row, offset in pairs], method, seed)
    back = [resample(s, RATE, sample_rate) for s in speech]
    return [_of_length(s, len(row)) + offset for s, (row, offset) in zip(back, pairs, strict=True)]


def _of_length(x: torch.Tensor, length: int) -> torch.Tensor:
    """x (N,) cut, or filled with zeros, to so many samples: resampled there and back it may differ by one."""
    return torch.nn.functional.pad(x, (0, max(0, length - len(x))))[:length]


def _enhance(rows: list[torch.Tensor], method: Method, seed: Seed) -> list[torch.Tensor]:
    each = generators(seed, len(rows), rows[0].device if rows else "cpu")
    on_cpu = all(row.device.type == "cpu" for row in rows)
    threads = torch.get_num_threads() if on_cpu and method.running.parallel else 1
    batches = _batches(rows, method, threads, on_cpu)

    def run(batch: list[Segment]) -> torch.Tensor:
        with torch.inference_mode():
            x = torch.stack([rows[s.row][s.start : s.stop] for s in batch])
            steps = method.part(batch, len(rows))(x, generators=[each[s.row].clone_state() for s in batch])
            (last,) = deque(steps, maxlen=1)  # whose estimate is the only one that is computed
            return last.estimate()

    return _joined(rows, zip(batches, _in_parallel(run, batches, threads), strict=True))


def _batches(rows: list[torch.Tensor], method: Method, threads: int, on_cpu: bool) -> list[list[Segment]]:
    """Segments of one length share a batch, as many as the hardware takes at once; each core gets as many batches."""
    alike: dict[int, list[Segment]] = defaultdict(list)
    for i, row in enumerate(rows):
        for start, stop in _spans(len(row), method.running.max_seconds):
            alike[stop - start].append(Segment(i, start, stop))
    batches = []
    for length, group in alike.items():
        most = gpu_batch_size(length)
        if on_cpu:
            most = min(method.running.batch_size or len(group), most)
        turns = -(-len(group) // (threads * most))
        size = -(-len(group) // (threads * turns))
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


def gpu_batch_size(length: int) -> int:
    """How many utterances of so many samples are taken at once: a GPU of 16 GB holds any method, memory is bounded.

    >>> gpu_batch_size(4 * RATE), gpu_batch_size(30 * RATE), gpu_batch_size(600 * RATE)
    (16, 2, 1)
    """
    return max(1, round(RATE * GPU_BATCH_SECONDS) // length)


def _spans(length: int, max_seconds: float) -> list[tuple[int, int]]:
    """(start, stop) of equal segments that cover a file and overlap by a second at least; one, if it is short."""
    if length <= RATE * max_seconds:
        return [(0, length)]
    size = round(RATE * max_seconds)
    assert size > RATE * OVERLAP, f"segments of {max_seconds} s cannot share {OVERLAP} s"
    count = 1 + math.ceil((length - size) / (size - round(RATE * OVERLAP)))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [(start, start + size) for start in starts]


def _joined(rows: list[torch.Tensor], done: Iterable[tuple[list[Segment], torch.Tensor]]) -> list[torch.Tensor]:
    """Whole utterances from the estimates of their segments, faded over where two of them overlap."""
    speech, weight = [torch.zeros_like(row) for row in rows], [torch.zeros_like(row) for row in rows]
    for batch, estimates in done:
        for (row, start, stop), estimate in zip(batch, estimates, strict=True):
            ramp = ((torch.arange(stop - start).to(estimate) + 1) / (RATE * OVERLAP)).clamp_max(1)
            fade = torch.ones_like(ramp)
            if start > 0:
                fade = torch.minimum(fade, ramp)
            if stop < len(rows[row]):
                fade = torch.minimum(fade, ramp.flip(0))
            speech[row][start:stop] += fade * estimate
            weight[row][start:stop] += fade
    return [s / w for s, w in zip(speech, weight, strict=True)]


def _in_parallel(
    run: Callable[[list[Segment]], torch.Tensor], batches: list[list[Segment]], threads: int
) -> Iterator[torch.Tensor]:
    """Results of the batches, as many side by side as there are threads, each then with one of its own.

    A single batch, too: with more threads it would be rounded differently, alone and in company.
    """
    if threads == 1:
        yield from map(run, batches)
        return
    with ThreadPoolExecutor(threads, initializer=_one_thread) as pool:
        yield from pool.map(run, batches)


def _one_thread() -> None:
    """Let this thread compute alone; `torch.set_num_threads` would say so to every thread that is still to come."""
    from threadpoolctl import threadpool_limits  # here, since it sets a variable of the environment for Intel's OpenMP

    torch.get_num_threads()  # torch gives a thread its share when it is first asked, and would take this back then
    threadpool_limits(1, user_api="openmp")
