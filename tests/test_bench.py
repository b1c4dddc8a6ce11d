"""Methods × mixtures → one table, whose numbers can be traced and do not fall with one file."""

import json
import math
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import speechlike

from sepriors import OracleWiener, SPPWiener, mix
from sepriors.lab import bench, plots
from sepriors.lab.claims import ClaimError, bootstrap
from sepriors.protocols import Method, Step
from tools.pages import leaderboard, records
from tools.pages import trust as trust_page

METRICS = ("si_sdr", "fwsnrseg")


class Halve(Method):
    """Half the input, and what it was asked for."""

    iterations = 1

    def __init__(self):
        self.seeds, self.batches = [], []

    def __call__(self, x, *, generators):
        self.seeds += [g.initial_seed() for g in generators]
        self.batches.append(len(x))
        yield Step(0, None, lambda: x / 2)


class SilentFirst(Method):
    """Silence for the first file, which no measure can score."""

    iterations = 1

    def __call__(self, x, *, generators):
        gain = torch.ones(len(x), 1)
        gain[0] = 0
        yield Step(0, None, lambda: gain * x)


@pytest.fixture(scope="module")
def mixtures():
    clean = speechlike(3, 16000)
    noise = torch.randn(3, 16000, generator=torch.Generator().manual_seed(1))
    return [mix(clean, noise, snr, ("a", "b", "c")) for snr in (0.0, 10.0)]


@pytest.fixture(scope="module")
def table(mixtures):
    methods = {"spp": SPPWiener(), "half": Halve(), "silent": SilentFirst(), "oracle": OracleWiener.from_mixture}
    return bench.records(bench.run(methods, mixtures, metrics=METRICS, seed=5))


# ------------------------------------------------------------------------- records


def test_the_records(table, mixtures):
    assert len(table) == 2 * 5 * 3
    assert list(table["method"].unique()) == ["noisy", "spp", "half", "silent", "oracle"]
    assert list(table["file"][:3]) == ["a", "b", "c"]
    assert list(table["seed"][:3]) == [5, 6, 7]
    assert set(table.columns) == {"method", "snr_db", "file", "seed", *METRICS, "rtf", "peak_mb", "why"}
    at = table.set_index(["method", "snr_db", "file"]).sort_index()
    for m in mixtures:
        np.testing.assert_allclose(at.loc[("noisy", m.snr_db), "si_sdr"], m.snr_db, atol=0.6)
        np.testing.assert_allclose(at.loc[("half", m.snr_db), "si_sdr"], at.loc[("noisy", m.snr_db), "si_sdr"])
        assert (at.loc[("oracle", m.snr_db), "si_sdr"] > at.loc[("spp", m.snr_db), "si_sdr"]).all()
        assert math.isnan(at.loc[("silent", m.snr_db, "a"), "si_sdr"])
        why = "si_sdr: the estimate is silent; fwsnrseg: the estimate is silent"
        assert at.loc[("silent", m.snr_db, "a"), "why"] == why
        assert at.loc[("silent", m.snr_db, "b"), "why"] == ""
    assert (table.loc[table["method"] == "noisy", "rtf"] == 0).all()
    assert (table.loc[table["method"] != "noisy", "rtf"] > 0).all()
    assert (table.loc[table["method"] != "noisy", "peak_mb"] > 50).all()


def test_batches_and_seeds(monkeypatch, mixtures):
    monkeypatch.setattr(bench, "BATCH", 2)
    half = Halve()
    frames = list(bench.run({"half": half}, mixtures[:1], metrics=["si_sdr"], seed=100))
    assert half.batches == [2, 1]
    assert half.seeds == [100, 101, 102]
    assert [len(f) for f in frames] == [3, 3]


def test_the_truth_is_told_batch_by_batch(monkeypatch, mixtures):
    monkeypatch.setattr(bench, "BATCH", 2)
    told = []

    def oracle(mixture):
        told.append(mixture.key)
        return OracleWiener.from_mixture(mixture)

    list(bench.run({"oracle": oracle}, mixtures[:1], metrics=["si_sdr"]))
    assert told == [("a", "b"), ("c",)]


def test_it_can_be_stopped_and_asked_for_nonsense(mixtures):
    frames = bench.run({"half": Halve()}, mixtures, metrics=["si_sdr"])
    assert list(next(frames)["method"]) == ["noisy"] * 3
    frames.close()
    with pytest.raises(ValueError, match="unknown measure 'sisdr'; did you mean si_sdr"):
        next(bench.run({}, mixtures, metrics=["sisdr"]))
    one = mixtures[0]._replace(**{k: getattr(mixtures[0], k)[0] for k in ("noisy", "clean", "noise")})
    with pytest.raises(ValueError, match=r"expected mixtures of many files \(files, N\), got shape \(16000,\)"):
        next(bench.run({}, [one]))


# --------------------------------------------------------------------- differences


def toy_records():
    """Two methods, two files, two ratios, chosen so that pairs differ by 1, 2, 3, 4."""
    rows = []
    for snr, file, noisy, gain in ((0, "a", 10, 1), (0, "b", 50, 2), (5, "a", 90, 3), (5, "b", 30, 4)):
        rows.append({"method": "noisy", "snr_db": snr, "file": file, "m": noisy, "rtf": 0.0, "peak_mb": 1.0})
        rows.append({"method": "up", "snr_db": snr, "file": file, "m": noisy + gain, "rtf": 0.5, "peak_mb": 2.0})
    return pd.DataFrame(rows)


def test_differences_are_paired():
    table = toy_records().sample(frac=1, random_state=0)  # the order of rows does not matter
    pairs = bench.paired(table, "m", "up")
    assert dict(pairs) == {("a", 0): 1, ("a", 5): 3, ("b", 0): 2, ("b", 5): 4}
    assert dict(bench.paired(table, "m", "noisy", "up")) == {k: -v for k, v in pairs.items()}
    e = bench.difference(table, "m", "up")
    assert (e.value, e.low, e.high, e.n) == (2.5, 2.0, 3.0, 2)  # files 2 and 3: their ratios are averaged first
    assert e.label == "m up − noisy"
    with pytest.raises(ValueError, match="unknown method 'down' in these records; there are noisy, up"):
        bench.paired(table, "m", "down")


def test_a_missing_value_leaves_its_pair_out():
    table = toy_records()
    table.loc[(table["method"] == "up") & (table["file"] == "a"), "m"] = np.nan
    e = bench.difference(table, "m", "up")
    assert (e.value, e.n, e.missing, e.why) == (3.0, 1, 1, "one file")
    table.loc[(table["method"] == "noisy") & (table["file"] == "b"), "m"] = np.nan
    with pytest.raises(ClaimError, match="m up − noisy: expected at least one finite value"):
        bench.difference(table, "m", "up")
    assert bench.summary(table, ["m"]).query("method == 'up'")["delta"].isna().all()  # but the table stands


def gaps(snrs=(-5.0, 0.0)):
    """PESQ of three files; a method without it at -5 dB in the one where it would have done best at 0 dB."""
    rows = []
    for snr in snrs:
        for i, file in enumerate("abc"):
            cost = {"rtf": 0.1, "peak_mb": 1.0, "seed": i, "why": ""}
            rows.append({"method": "noisy", "snr_db": snr, "file": file, "pesq_wb": 1.0, **cost})
            better = {"a": 1.5, "b": 1.6, "c": 2.0 if snr == 0 else np.nan}[file]
            rows.append({"method": "m", "snr_db": snr, "file": file, "pesq_wb": better, **cost})
    return pd.DataFrame(rows)


def test_one_rule_for_missing_values_in_every_table(tmp_path):
    """A file that lacks the value at one SNR leaves at all: .55 of two files everywhere, and the coverage beside it."""
    table = gaps()
    e = bench.difference(table, "pesq_wb", "m")
    assert (e.value, e.low, e.high, e.n, e.missing) == (pytest.approx(0.55), *map(pytest.approx, (0.5, 0.6)), 2, 1)
    assert str(e) == "0.55 [0.5, 0.6] (2/3)"
    assert [bench.difference(table, "pesq_wb", "m", snr_db=snr)[:4] for snr in (-5, 0)] == [e[:4], e[:4]]
    assert bench.paired(table, "pesq_wb", "m").mean() == pytest.approx(0.55)
    assert bench.paired(table, "pesq_wb", "m")["c"].isna().all()
    assert bench.difference(table, "pesq_wb", "noisy", "m").value == pytest.approx(-0.55)
    shown = bench.overview(table, ["pesq_wb"]).loc["m"]
    assert (shown["pesq_wb"], shown["Δ pesq_wb"]) == ("1.55 [1.5, 1.6] (2/3)", str(e))
    summary = bench.summary(table, ["pesq_wb"]).query("method == 'm'")
    assert list(summary["value"]) == pytest.approx([1.55, 1.55])
    assert list(summary["delta"]) == pytest.approx([0.55, 0.55])
    assert list(summary["n"]) == list(summary["delta_n"]) == [2, 2]
    assert list(summary["of"]) == [3, 3]
    assert list(plots.table(summary, ["pesq_wb"]).loc["m"]) == ["1.55 ± 0.05 (2/3)"] * 2
    downloaded = records.long_table([{"chapter": "x", "record": "y", "records": table.to_dict("records")}])
    rows = downloaded[(downloaded["method"] == "m") & (downloaded["metric"] == "pesq_wb")]
    assert [*rows["value"], *rows["n"], *rows["missing"]] == pytest.approx([1.55, 1.55, 2, 2, 1, 1])
    cost = table.assign(si_sdr=table["pesq_wb"])
    assert leaderboard.interval(e) == " (2/3)"  # below its fewest files
    assert ">0.55<small> (2/3)</small>" in leaderboard.html(cost)
    assert "SI-SDR 0.55 (2/3) dB, PESQ 0.55 (2/3)" in trust_page._advice("this", cost, "m")


def test_a_measure_that_nobody_was_asked_for_at_an_snr_is_not_missing_there():
    table = gaps()
    table.loc[table["snr_db"] == -5, "pesq_wb"] = np.nan  # DNSMOS takes a second a file: at 0 dB only
    e = bench.difference(table, "pesq_wb", "m")
    assert (e.value, e.n, e.missing) == (pytest.approx(0.7), 3, 0)
    assert bench.overview(table, ["pesq_wb"]).loc["m", "Δ pesq_wb"] == str(e)


def test_a_method_that_was_run_at_one_snr_is_compared_there():
    table = gaps()
    dear = table[~((table["method"] == "m") & (table["snr_db"] == -5))]
    e = bench.difference(dear, "pesq_wb", "m")
    assert (e.value, e.n, e.missing) == (pytest.approx(0.7), 3, 0)
    assert bench.overview(dear, ["pesq_wb"]).loc["m", "Δ pesq_wb"] == str(e)
    assert bench.difference(dear[~((dear["method"] == "m") & (dear["file"] == "a"))], "pesq_wb", "m").missing == 1


def test_speakers_and_recordings_are_drawn():
    rng = np.random.default_rng(0)
    keys = [f"s{i % 4}/{i}.flac+noise/home/{i // 3}.flac" for i in range(24)]
    x = rng.normal(0, 2, 4)[np.arange(24) % 4] + rng.normal(0, 1, 24)
    e = bench.estimate(pd.Series(x, keys), "x")
    clusters = {"speakers": [i % 4 for i in range(24)], "recordings": [i // 3 for i in range(24)]}
    assert e == bootstrap(x, "x", **clusters)
    assert bench.estimate(pd.Series(x, range(24))) == bootstrap(x)  # files of another name stand for themselves
    alone = [f"s/{i}.flac+noise/home/{i}.flac" for i in range(24)]
    assert bench.estimate(pd.Series(x, alone)).why == "one speaker"


def test_the_overview(table):
    got = bench.overview(table, METRICS)
    assert list(got.columns) == ["si_sdr", "fwsnrseg", "RTF", "process peak MB", "Δ si_sdr", "Δ fwsnrseg"]
    by_file = table.query("method == 'spp'").groupby("file")["si_sdr"].mean()
    assert got.loc["spp", "si_sdr"] == str(bootstrap(by_file.to_numpy()))
    assert got.loc["spp", "Δ si_sdr"] == str(bench.difference(table, "si_sdr", "spp"))
    assert got.loc["noisy", "Δ si_sdr"] == "–"
    assert got.loc["silent", "si_sdr"].endswith("(2/3)")  # coverage
    assert got.loc["silent", "Δ si_sdr"].endswith("(2/3)")
    assert (bench.summary(table, METRICS).query("method == 'noisy'")["delta"] == 0).all()
    broken = table.copy()
    broken.loc[(broken["method"] == "spp") & (broken["snr_db"] == 0), "si_sdr"] = np.nan
    broken.loc[broken["method"] == "half", "si_sdr"] = np.nan
    assert (bench.overview(broken, METRICS).loc[["spp", "half"], ["si_sdr", "Δ si_sdr"]] == "–").all(axis=None)
    alone = bench.overview(table[table["method"] == "spp"], METRICS)
    assert list(alone.columns) == ["si_sdr", "fwsnrseg", "RTF", "process peak MB"]


# ---------------------------------------------------------------- cost, provenance


def test_cost():
    with bench.measured(0.001) as cost:
        np.ones(25_000_000).sum()  # 200 MB
    assert cost().peak_mb > 200
    with bench.measured() as cost:
        pass
    assert cost().seconds < 0.5
    assert cost().peak_mb > 10  # a block too short for the watcher has a peak, too


def test_provenance():
    facts = bench.provenance(corpus="people", seed=3)
    assert (facts["corpus"], facts["seed"]) == ("people", 3)
    assert facts["versions"].keys() == {"python", *bench.PACKAGES}
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["hardware"].keys() == {"machine", "system", "cores", "cpu", "gpu"}
    assert facts["hardware"]["cores"] >= 1
    assert pd.Timestamp(facts["finished"]).tzinfo is not None
    assert json.loads(json.dumps(facts)) == facts


def test_the_commit(monkeypatch, tmp_path):
    def git(*command):
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True, capture_output=True)

    assert bench.commit()
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages" / "bench.py"))
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "bench.py").touch()
    (tmp_path / "theirs.py").touch()
    assert bench.commit() == "unknown"  # no checkout
    git("init")
    git("add", "theirs.py")
    git("commit", "-m", "theirs")
    assert bench.commit() == "unknown"  # somebody else's, into which this was installed
    git("add", ".")
    git("commit", "-m", "ours")
    clean = bench.commit()
    assert len(clean) == 10
    (tmp_path / "theirs.py").write_text("changed")
    assert bench.commit() == clean + "+"
    monkeypatch.setenv("PATH", "")
    assert bench.commit() == "unknown"  # no git


def test_saving(tmp_path, table, monkeypatch):
    path = tmp_path / "deep" / "bench.json"
    bench.save(path, table, {"seed": 5, "folder": tmp_path})
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]
    got = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert (got["seed"], got["folder"], len(got["records"])) == (5, str(tmp_path), len(table))
    assert got["records"][0]["si_sdr"] == pytest.approx(table["si_sdr"][0], abs=1e-6)
    assert any(row["si_sdr"] is None for row in got["records"])

    before = path.read_bytes()
    with pytest.raises(TypeError):
        bench.save(path, table, {("no", "key"): 1})
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"bench.json": before}


def test_records_of_a_chapter(tmp_path, table, monkeypatch):
    monkeypatch.delenv("SEPRIORS_BUILD", raising=False)
    bench.keep("01", "white", table, {})
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    bench.keep("01", "white", table, {"seed": 1})
    assert json.loads((tmp_path / "records/01/bench-white.json").read_text())["seed"] == 1
