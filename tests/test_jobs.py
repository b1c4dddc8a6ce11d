"""Work over processes and a cluster: nothing is lost, nothing is done twice, the numbers are those of one process."""

import json
import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import pandas as pd
import psutil
import pytest
import threadpoolctl
import torch
from conftest import process, speechlike, tree
from distributed import LocalCluster

from sepriors import SPPWiener, methods, metrics, mix
from sepriors.__main__ import main
from sepriors.lab import bench, jobs
from sepriors.lab.jobs import JobError, WorkerPool, as_completed
from sepriors.protocols import Method, Step
from sepriors.signal import audio

COST = ["rtf", "peak_mb", "workers", "threads", "cpu"]


def square(x):
    return x * x


def threads(_):
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return os.getpid(), torch.get_num_threads(), max(pools)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker, x):
    """Kill the process that has the first job there is, but no other."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return x * x
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster():
    """Two workers with a thread each, in processes of their own."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as made:
        yield made


@pytest.fixture(scope="module")
def mixtures():
    clean = speechlike(3, 16000)
    noise = torch.randn(3, 16000, generator=torch.Generator().manual_seed(1))
    return [mix(clean, noise, snr, ("a", "b", "c")) for snr in (0.0, 10.0)]


# ----------------------------------------------------------------- worker pools


def test_items_are_asked_for_as_workers_come_free():
    """A hundred files do not lie in memory while two are at work."""
    asked = []

    def items():
        for i in range(100):
            asked.append(i)
            yield i

    with ThreadPoolExecutor(2) as executor:
        for done, (item, result) in enumerate(as_completed(WorkerPool(executor, lambda: 2), square, items())):
            assert result == item**2
            assert len(asked) <= done + 1 + 4
    assert asked == list(range(100))


def test_an_error_is_raised_and_the_rest_is_left():
    def reciprocal(x):
        return 1 / x

    with ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
        list(as_completed(WorkerPool(executor, lambda: 1), reciprocal, [1, 0, 1, 1]))
    with pytest.raises(JobError, match="expected one worker at least, got 0"), jobs.worker_pool(0):
        pass


def test_processes_share_the_cores_and_one_of_them_dies():
    """No more threads than cores, NumPy's and SciPy's included."""
    with jobs.worker_pool(2) as two:
        found = [result for _, result in as_completed(two, threads, range(8))]
        with pytest.raises(JobError, match=r"a process that worked died .* is the memory full"):
            list(as_completed(two, die, range(3)))
    assert os.getpid() not in {process for process, *_ in found}
    share = max(1, metrics.workers() // 2)
    assert {torch_threads for _, torch_threads, _ in found} == {share}
    assert max(most for *_, most in found) <= share


def script(folder, text, *arguments, **options):
    """A script in a process of its own."""
    (folder / "script.py").write_text(text)
    return process(folder / "script.py", *arguments, **options)


UNGUARDED = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from sepriors.lab.jobs import WorkerPool, as_completed

made = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
list(as_completed(WorkerPool(made, lambda: 1), abs, [1]))
"""


def test_a_script_without_a_guard_is_told_so(tmp_path):
    """Each worker that is spawned reads the script again, and starts its own work, which Python refuses."""
    told = script(tmp_path, UNGUARDED).stderr.splitlines()[-1]
    assert "is the memory full, or does a script of yours start its work without `if __name__ ==" in told


ORPHANS = """
import os, signal
from sepriors.lab.jobs import as_completed, worker_pool
from test_jobs import threads

if __name__ == "__main__":
    with worker_pool(2) as two:
        for _, (worker, *_) in as_completed(two, threads, range(4)):
            print(worker, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_the_process_that_made_them(tmp_path):
    done = script(tmp_path, ORPHANS)
    assert len(done.stdout.split()) == 4
    assert done.returncode == -signal.SIGKILL
    for worker in map(int, done.stdout.split()):
        if psutil.pid_exists(worker):
            psutil.Process(worker).wait(120)  # raises TimeoutExpired where it stays


# ---------------------------------------------------------------------- cluster


def test_a_worker_that_is_killed_costs_nothing(cluster, tmp_path):
    with jobs.worker_pool(dask=cluster.scheduler_address) as made:
        assert made.size() == 2
        got = dict(as_completed(made, partial(die_once, str(tmp_path / "died")), range(10)))
    assert (tmp_path / "died").exists()
    assert got == {x: x * x for x in range(10)}


def test_a_job_that_kills_every_worker_is_given_up(cluster, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    given_up = pytest.raises(JobError, match=r"tcp://.*: one job ended several workers")
    with given_up, jobs.worker_pool(dask=cluster.scheduler_address) as made:
        list(as_completed(made, die, [0]))


def test_a_cluster_that_is_not_there(monkeypatch):
    def refused(address):
        with pytest.raises(JobError) as caught, jobs.worker_pool(dask=address):
            pass
        return str(caught.value)

    with LocalCluster(n_workers=0, dashboard_address=":0") as empty:
        told = refused(empty.scheduler_address)
    assert told.endswith(f"has no worker yet; start one: dask worker {empty.scheduler_address} --nthreads 1")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in ("nowhere", "tcp://127.0.0.1:1"):
            assert refused(address).startswith(f"{address}: expected the address of a Dask scheduler, tcp://HOST:PORT;")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'sepriors[cluster]'" in refused("tcp://127.0.0.1:1")


def test_the_bench_on_a_cluster_whose_worker_is_killed(cluster, corpus_folder, tmp_path, monkeypatch, capsys):
    """The whole command; the worker dies when the first record has come."""
    kept, keep = [], bench._keep

    def kill(path, record):
        keep(path, record)
        if not kept:
            os.kill(next(nanny.pid for nanny in cluster.workers.values() if nanny.pid), signal.SIGKILL)
        kept.append(path)

    monkeypatch.setattr(bench, "_keep", kill)
    command = ["bench", "--methods", "spp-wiener", "--set", "white", "--files", "2", "--metrics", "si_sdr"]
    tables = []
    for name, how in (("cluster", ["--dask", cluster.scheduler_address]), ("alone", ["--workers", "1"])):
        path = tmp_path / f"{name}.json"
        assert main([*command, "--corpus", str(corpus_folder), "-o", str(path), *how]) == 0
        tables.append(pd.DataFrame(json.loads(path.read_text())["records"]))
    assert len(kept) == len(set(kept)) == 32
    pd.testing.assert_frame_equal(*(table.drop(columns=COST) for table in tables))
    assert set(tables[1]["workers"]) == {1}
    assert set(tables[0]["workers"]) <= {1, 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.json", "cluster.json"]


# ------------------------------------------------------------------------- bench


class Counted(Method):
    """Half the input, silence for the first file of a batch; and how many files it was given."""

    iterations = 1

    def __init__(self):
        self.files = 0

    def __call__(self, x, *, generators):
        self.files += len(x)
        yield Step(0, None, lambda: torch.where(x.abs().amax(-1, keepdim=True) > 0.5, 0 * x, x / 2))


METHODS = {"spp-wiener": "spp-wiener", "noise": SPPWiener(floor_db=-10)}


@pytest.fixture(scope="module")
def sequential(mixtures):
    made = {"spp-wiener": methods.make("spp-wiener"), "noise": METHODS["noise"]}
    return bench.records(bench.run(made, mixtures, metrics=["si_sdr", "stoi"], seed=5))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_numbers_are_those_of_the_bench(sequential, mixtures, workers):
    """To the last bit, in its order, however many work and whichever way a method comes to them."""
    with jobs.worker_pool(workers) as worker_pool:
        rows = list(bench.run_parallel(worker_pool, METHODS, mixtures, metrics=["si_sdr", "stoi"], seed=5))
    table = bench.ordered(rows)
    same = ["method", "snr_db", "file", "seed", "si_sdr", "stoi", "why"]
    pd.testing.assert_frame_equal(table[same], sequential[same], check_exact=True)
    assert set(table["workers"]) == {workers}
    assert (table.loc[table["method"] != "noisy", "rtf"] > 0).all()


def test_a_second_call_goes_on(mixtures, tmp_path):
    """Ended after three records, spoiled in one: what is whole is not made again, and the table is the same."""
    options = {"metrics": ["si_sdr"], "folder": tmp_path / "parts"}
    counted = Counted()
    with ThreadPoolExecutor(1) as executor:
        worker_pool = WorkerPool(executor, lambda: 1)
        whole = bench.ordered(bench.run_parallel(worker_pool, {"half": Counted()}, mixtures, metrics=["si_sdr"]))
        rows = bench.run_parallel(worker_pool, {"half": counted}, mixtures, **options)
        for _ in range(9):
            next(rows)
        rows.close()
        executor.submit(int).result()  # what was being made when it ended is not of the second call
        kept = sorted((tmp_path / "parts").iterdir())
        assert len(kept) == 9
        kept[0].write_text(kept[0].read_text()[:20])
        counted.files = 0
        table = bench.ordered(bench.run_parallel(worker_pool, {"half": counted}, mixtures, **options))
        assert counted.files in (3, 4)  # the spoiled record may be one of the noisy input
        counted.files = 0
        again = bench.ordered(bench.run_parallel(worker_pool, {"half": counted}, mixtures, **options))
    assert counted.files == 0
    same = table.columns.difference(COST)
    pd.testing.assert_frame_equal(table[same], whole[same])
    pd.testing.assert_frame_equal(again, table)


def test_a_record_of_something_else_is_not_taken(mixtures, tmp_path, shelf):
    """Of another seed, measure, mixture or card."""
    options = {"metrics": ["si_sdr"], "folder": tmp_path / "parts"}

    def made(mixtures=mixtures, **changed):
        counted = Counted()
        list(bench.run_parallel(WorkerPool(None, lambda: 1), {"half": counted}, mixtures, **{**options, **changed}))
        return counted.files

    assert (made(), made()) == (6, 0)
    assert made(seed=1) == 6
    assert made(metrics=["stoi"]) == 6
    assert made([mixtures[0]._replace(clean=mixtures[0].clean + 1e-3)]) == 3
    assert made([mixtures[0]._replace(snr_db=1.0)]) == 3
    assert made([mixtures[0]._replace(noisy=mixtures[0].noisy.clone())]) == 0
    with (shelf / "cards.toml").open("a") as file:
        file.write("\n")
    assert made() == 6


def test_a_value_that_is_missing_stays_missing(mixtures, tmp_path):
    """NaN is null in the file, and NaN again in the table."""
    loud = mixtures[0]._replace(noisy=mixtures[0].noisy / mixtures[0].noisy.abs().amax(-1, keepdim=True))
    tables = []
    for _ in range(2):
        alone = WorkerPool(None, lambda: 1)
        rows = bench.run_parallel(alone, {"half": Counted()}, [loud], metrics=["si_sdr"], folder=tmp_path)
        tables.append(bench.ordered(rows))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].query("method == 'half'")["si_sdr"].isna().all()
    assert [json.loads(p.read_text(), parse_constant=pytest.fail) for p in tmp_path.iterdir()]
    assert math.isnan(tables[1]["si_sdr"].iloc[-1])


# ----------------------------------------------------------------------- enhance


@pytest.fixture
def noisy(tmp_path):
    """Files of two rates, one of two channels."""
    for i, x in enumerate(speechlike(4, 8000)):
        audio.write(tmp_path / "in" / f"{i}.wav", x, 8000 if i == 3 else 16000)
    audio.write(tmp_path / "in" / "two.flac", speechlike(2, 8000, seed=9), 16000)
    return tmp_path / "in"


def test_files_over_processes_and_a_cluster(noisy, tmp_path, cluster, capsys):
    """Byte for byte what one process makes."""
    command = ["enhance", str(noisy), "--method", "nmf", "-o"]
    for name, how in (("alone", []), ("two", ["--workers", "2"]), ("dask", ["--dask", cluster.scheduler_address])):
        assert main([*command, str(tmp_path / name), *how]) == 0
    assert tree(tmp_path / "two") == tree(tmp_path / "alone")
    assert tree(tmp_path / "dask") == tree(tmp_path / "alone")
    assert len(tree(tmp_path / "alone")) == 5


INTERRUPTED = """
import os, signal, sys
from sepriors import metrics
from sepriors.__main__ import main
from sepriors.signal import audio

write, score_many = audio.write, metrics.score_many

def written(*arguments, **choices):
    write(*arguments, **choices)
    os.killpg(0, signal.SIGINT)  # as Ctrl-C: to every process of the command

def scored(*arguments):
    for scores in score_many(*arguments):
        os.killpg(0, signal.SIGINT)
        yield scores

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    audio.write, metrics.score_many = written, scored
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.fault("Ctrl-C reaches all processes of a command", "One line, status 130")
def test_control_c_keeps_what_is_finished(noisy, tmp_path, capsys):
    """It reaches the workers too, but only the parent speaks."""
    command = ["enhance", str(noisy), "--method", "nmf", "--workers", "2", "-o", str(tmp_path / "out")]
    measure = ["score", *noisy.glob("*.wav"), "--metrics", "dnsmos_bak,dnsmos_ovr"]
    for name, arguments in (("score", measure), ("enhance", command)):
        done = script(tmp_path, INTERRUPTED, *arguments, process_group=0)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", f"sepriors {name}: interrupted\n")
    finished = tree(tmp_path / "out")
    assert len(finished) == 1
    assert main([*command, "--resume"]) == 0
    assert main(["enhance", str(noisy), "--method", "nmf", "-o", str(tmp_path / "alone")]) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert finished.items() <= tree(tmp_path / "out").items()
