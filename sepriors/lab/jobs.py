"""Work over any Executor: this process, a process for each core, or a Dask cluster; results come as they are done."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, TypeVar

from sepriors import methods
from sepriors.metrics import pool
from sepriors.protocols import Method

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH = 16  # utterances at once: past that two cores gain nothing


class JobError(ValueError):
    """Work that could not be done, by a process that died or a cluster that cannot be reached."""


class WorkerPool(NamedTuple):
    """Who works: an executor (None: this process), and how many jobs at once, which on a cluster may change."""

    executor: Executor | None
    size: Callable[[], int]


@contextmanager
def worker_pool(workers: int = 1, dask: str | None = None) -> Iterator[WorkerPool]:
    """So many processes, which share the cores (1: none beside this one), or the workers of the Dask cluster there.

    Raises JobError where there is no such cluster, where it has no worker, or where Dask is not installed.

    >>> with worker_pool() as alone:
    ...     [squared for _, squared in as_completed(alone, lambda x: x * x, [1, 2, 3])]
    [1, 4, 9]
    """
    if workers < 1:
        raise JobError(f"expected one worker at least, got {workers}")
    if dask is not None:
        with _cluster(dask) as made:
            yield made
    elif workers == 1:
        yield WorkerPool(None, lambda: 1)
    else:
        with pool(workers) as executor:
            yield WorkerPool(executor, lambda: workers)


@contextmanager
def _cluster(address: str) -> Iterator[WorkerPool]:
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise JobError("a cluster needs Dask, which is not installed: pip install 'sepriors[cluster]'") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise JobError(f"{address}: expected the address of a Dask scheduler, tcp://HOST:PORT; {error}") from error
    with client:
        if not client.nthreads():
            raise JobError(f"{address}: this cluster has no worker yet; start one: dask worker {address} --nthreads 1")
        try:
            yield WorkerPool(client.get_executor(), lambda: sum(client.nthreads().values()))
        except KilledWorker as error:
            raise JobError(f"{address}: one job ended several workers, the last of them {error.last_worker}") from error


def as_completed(
    worker_pool: WorkerPool, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)), as soon as each is done; the next items are asked for only as workers come free.

    Raises JobError where a process of the executor dies, besides what `function` raises.
    """
    if worker_pool.executor is None:
        for item in items:
            yield item, function(item)
        return
    rest, waiting = iter(items), dict[Future[Result], Item]()
    try:
        while True:
            free = max(1, 2 * worker_pool.size()) - len(waiting)  # as many wait as are at work: nobody is idle
            for item in islice(rest, max(0, free)):
                waiting[worker_pool.executor.submit(function, item)] = item
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                item = waiting.pop(future)
                yield item, future.result()
    except BrokenExecutor as error:
        raise JobError(
            f"a process that worked died ({error}); is the memory full, or does a script of yours start its work "
            'without `if __name__ == "__main__":`?'
        ) from error
    except CancelledError as error:
        raise JobError("the cluster was lost, or gave a job up") from error
    finally:
        for future in waiting:
            future.cancel()


@lru_cache(maxsize=2)
def cached_method(name: str) -> Method:
    """`methods.make`, once a process: a worker has one method after the other."""
    return methods.make(name)
