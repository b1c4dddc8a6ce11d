"""A record is measured once, resumed where it stopped, and refused once it is not what it was."""

import re
import shutil

import pytest

from sepriors import methods, metrics, weights
from sepriors.lab import bench, records
from sepriors.lab.corpora import bench_set
from sepriors.lab.jobs import WorkerPool
from sepriors.lab.records import RecordError, RecordSet

ALONE = WorkerPool(None, lambda: 1)
NAME = "nmf"
METRICS = ("si_sdr", "estoi")


def test_every_measure_has_a_tolerance():
    assert records.TOLERANCE.keys() == metrics.METRICS.keys()


@pytest.fixture
def made(toy):
    few = RecordSet("few", "real", files=2, seconds=1.0, snrs=(0.0, 5.0), metrics=METRICS)
    return RecordSet(**{**vars(few), "sha256": records.digest(few.excerpts(toy))})


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A method that takes no time."""
    nmf = methods.METHODS[NAME]
    monkeypatch.setitem(methods.METHODS, NAME, nmf._replace(make=lambda W: methods.replace(nmf.make(W), iterations=2)))
    records._cached.cache_clear()
    yield
    records._cached.cache_clear()


@pytest.fixture
def measured(made, toy, tmp_path):
    """The file of a record, and what it was measured on."""
    excerpts = made.excerpts(toy)
    assert list(records.record(made, excerpts, NAME, ALONE, where=tmp_path)) == [e.key for e in excerpts]
    return records.path_of(made.name, NAME, tmp_path), excerpts


def test_a_record_has_a_row_a_mixture_and_says_what_it_depends_on(measured, made, tmp_path):
    path, excerpts = measured
    found = records.read(path)
    assert found.problems(made, NAME) == []
    assert set(found.rows.index) == {(e.key, snr) for e in excerpts for snr in (0.0, 5.0)}
    assert found.facts["cards"] == {"nmf-speech": weights.cards()["nmf-speech"]["sha256"]}
    assert "iterations=2" in found.facts["settings"]
    assert sorted(p.name for p in path.parent.iterdir() if p.suffix == ".csv") == ["nmf.csv"]


def test_records_are_a_table_of_the_bench(measured, made, toy, tmp_path, monkeypatch):
    _, excerpts = measured
    list(records.record(made, excerpts, bench.NOISY, ALONE, where=tmp_path))
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: made})
    table = records.table(made.name, [bench.NOISY, NAME], tmp_path)
    mixtures = bench_set(toy, made.kind, files=made.files, seconds=made.seconds, snrs=made.snrs, seed=made.seed)
    by_hand = bench.records(bench.run({NAME: methods.make(NAME)}, mixtures, metrics=METRICS, seed=made.seed))
    for metric in METRICS:
        a, b = (bench.paired(t, metric, NAME).sort_index() for t in (table, by_hand))
        assert (a - b).abs().max() < 1e-3


def test_what_was_measured_is_kept_when_the_work_stops(made, toy, tmp_path, monkeypatch):
    excerpts = made.excerpts(toy)
    going = records.record(made, excerpts, NAME, ALONE, where=tmp_path)
    first = next(going)
    going.close()  # as Ctrl-C would
    assert records.path_of(made.name, f"{NAME}.part", tmp_path).is_file()
    assert not records.path_of(made.name, NAME, tmp_path).exists()
    rest = [e.key for e in excerpts if e.key != first]
    assert list(records.record(made, excerpts, NAME, ALONE, where=tmp_path)) == rest
    monkeypatch.setattr(records, "settings", lambda method: "others")  # what is there is of another method then
    again = records.path_of(made.name, f"{NAME}.part", tmp_path)
    shutil.copy(records.path_of(made.name, NAME, tmp_path), again)
    assert len(list(records.record(made, excerpts, NAME, ALONE, where=tmp_path))) == len(excerpts)


def test_two_that_measure_the_same_record(made, toy, tmp_path):
    excerpts = made.excerpts(toy)
    going = records.record(made, excerpts, NAME, ALONE, where=tmp_path)
    next(going)
    with pytest.raises(RecordError, match="another process is measuring this record"):
        next(records.record(made, excerpts, NAME, ALONE, where=tmp_path))
    going.close()


def with_another_last_digit(text):
    return re.sub(r"\d(?=\D*\Z)", lambda last: str(9 - int(last[0])), text)


@pytest.mark.parametrize(("spoil", "problem"), [
    (with_another_last_digit, "its rows are not as they were written"),
    (lambda text: text[: text.rindex("\n", 0, -1) + 1], "its rows are not as they were written"),
    (lambda text: text.replace("set_sha256 = \"", "set_sha256 = \"0"), "its set few was another"),
    (lambda text: text.replace("\"nmf-speech\" = \"", "\"nmf-speech\" = \"0"), "the card nmf-speech is another"),
    (lambda text: text.replace("iterations=2", "iterations=3"), "the method's settings were others"),
])  # fmt: skip
def test_a_record_that_is_stale_says_why_and_judges_nothing(measured, made, tmp_path, monkeypatch, spoil, problem):
    path, _ = measured
    path.write_text(spoil(path.read_text("utf-8")), "utf-8")
    assert records.read(path).problems(made, NAME) == [problem]
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: made})
    with pytest.raises(RecordError, match=f"stale, {problem}; measure it: make records"):
        records.table(made.name, [NAME], tmp_path)


@pytest.mark.parametrize(("text", "message"), [
    ("<<<<<<< ours\nkey,snr_db\n=======\n", "got one in conflict"),
    ("nothing", "expected a header and rows"),
    ("# set = \n", "expected a header and rows"),
    (None, "expected a record, got"),
])  # fmt: skip
def test_a_file_that_is_no_record(tmp_path, text, message):
    path = tmp_path / "nmf.csv"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(RecordError, match=message):
        records.read(path)


def test_a_method_that_there_is_no_more(measured, made):
    assert records.read(measured[0]).problems(made, "gone") == ["there is no method gone any more"]


def test_a_spot_check_measures_again(measured, made, tmp_path):
    path, excerpts = measured
    keys = records.drawn([e.key for e in excerpts], 1, "commit")
    assert keys == records.drawn([e.key for e in excerpts], 1, "commit")
    found = list(records.check(made, excerpts, NAME, keys, tmp_path))
    assert len(found) == len(METRICS)
    assert all(c.agrees for c in found)
    rows = records.read(path).rows
    rows["si_sdr"] += 1.0
    records.write(path, records.read(path).facts, rows)
    wrong = [c for c in records.check(made, excerpts, NAME, keys, tmp_path) if not c.agrees]
    assert {c.metric for c in wrong} == {"si_sdr"}


def test_a_build_checks_what_it_has_time_for(measured, made, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: made})
    spots = records.spot_checks(records.spots(toy, "commit", tmp_path), "commit", 60.0)
    assert {(c.set, c.method) for c in spots.checks} == {(made.name, NAME)}
    assert all(c.agrees for c in spots.checks)
    assert records.spot_checks(records.spots(toy, "commit", tmp_path), "commit", 0.0) == (
        [],
        {f"few/{NAME}": "no time"},
    )
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: RecordSet(**{**vars(made), "files": 99})})
    (why,) = records.spot_checks(records.spots(toy, "commit", tmp_path), "commit", 60.0).left_out.values()
    assert "expected" in why


def test_a_set_of_other_mixtures(made, toy):
    with pytest.raises(RecordError, match="set few: expected excerpts of hash 0000"):
        RecordSet(**{**vars(made), "sha256": 64 * "0"}).excerpts(toy)


def test_a_set_of_the_first_seconds_of_another(made, toy, monkeypatch):
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: made})
    whole = made.excerpts(toy)
    (part,) = RecordSet("short", "real", of=made.name, files=1, seconds=0.5, snrs=(5.0,)).excerpts(toy)
    assert (part.key, part.snrs) == (whole[0].key, (5.0,))
    assert part.noisy.equal(whole[0].noisy[1:, :8000])
    assert part.clean.equal(whole[0].clean[:8000])


def test_sets_that_cannot_be_read(tmp_path):
    (tmp_path / "sets.toml").write_text("[matched]\nkind = 'real'\nnonsense = 1\n", "utf-8")
    with pytest.raises(RecordError, match="expected sets in TOML"):
        records.sets(tmp_path)


def test_what_there_should_be(tmp_path, monkeypatch, made, measured):
    monkeypatch.setattr(records, "sets", lambda where=None: {made.name: made})
    table = records.overview(tmp_path).set_index("method")
    assert list(table.loc[NAME, ["problem", "rows"]]) == ["", 4]
    assert table.loc["vae-ldem", "problem"] == "missing"
