"""A study is measured part by part, resumed, and stale once its script, its weights or its set are others."""

import pytest

from sepriors.lab import records, studies
from sepriors.lab.jobs import WorkerPool
from sepriors.lab.records import RecordError, RecordSet

ALONE = WorkerPool(None, lambda: 1)
SCRIPT = """
import sepriors as sp
from sepriors.lab.studies import OnSet

CARDS = ("nmf-speech",)
SETS = ("few",)


def variants():
    return {"short": sp.make("nmf", iterations=2), "oracle": sp.OracleWiener.from_mixture}


study = OnSet("few", variants, (0.0, 5.0), ("si_sdr", "estoi"), files=2)
parts, measure = study.parts, study.measure
"""


@pytest.fixture
def where(toy, tmp_path, monkeypatch):
    """A folder with a study in it, and where its record is to lie."""
    few = RecordSet("few", "real", files=3, seconds=1.0, snrs=(0.0, 5.0))
    few = RecordSet(**{**vars(few), "sha256": records.digest(few.excerpts(toy))})
    folder = tmp_path / "book" / "studies"
    folder.mkdir(parents=True)
    (folder / "01_few.py").write_text(SCRIPT)
    monkeypatch.setenv("SEPRIORS_RECORDS", str(tmp_path / "records"))
    monkeypatch.setattr(records, "sets", lambda where=None: {"few": few})
    for cache in (studies.load, studies._made):
        cache.cache_clear()
    studies._KEPT.clear()
    yield tmp_path / "records"
    studies.load.cache_clear()


def rows():
    return studies.known("01_few")


def test_a_study_has_rows_for_each_variant_and_file(where, toy):
    assert studies.names() == ["01_few"]
    assert rows() is None
    done = list(studies.record("01_few", toy, ALONE))
    assert len(done) == 3 * 2  # the noisy mixture, two variants; two files
    found = rows()
    assert set(found["method"]) == {"noisy", "short", "oracle"}
    assert found.groupby("method").size().eq(2 * 2).all()
    means = found.groupby("method")["si_sdr"].mean()
    assert means["oracle"] > means["noisy"] + 3  # who knows the truth is far ahead
    assert studies.overview().to_dict("records")[0]["problem"] == ""


def test_what_is_there_is_not_measured_again(where, toy):
    work = studies.record("01_few", toy, ALONE)
    first = [next(work), next(work)]
    work.close()
    rest = list(studies.record("01_few", toy, ALONE))
    assert len(rest) == 4
    assert not {*first} & {*rest}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda where: (where.parent / "book/studies/01_few.py").write_text(SCRIPT + "\n"), "its script was another"),
        (lambda where: _edit(where, '"nmf-speech" = "', '"nmf-speech" = "0'), "its cards was another"),
        (lambda where: _edit(where, '"few" = "', '"few" = "0'), "its sets was another"),
        (lambda where: _edit(where, ",short,", ",long,"), "its rows are not as they were written"),
        (lambda where: studies.path_of("01_few").write_text("<<<<<<< HEAD\n"), "conflict"),
    ],
)
def test_a_study_is_stale_once_what_it_needs_is_another(where, toy, spoil, why):
    list(studies.record("01_few", toy, ALONE))
    spoil(where)
    assert why in studies.state("01_few")[1]
    assert rows() is None
    assert list(studies.spots(toy, "seed")) == []


def _edit(where, old, new):
    path = studies.path_of("01_few")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_study_is_checked_by_measuring_a_part_again(where, toy):
    list(studies.record("01_few", toy, ALONE))
    spots = records.spot_checks(studies.spots(toy, "seed"), "seed", 60.0)
    assert spots.left_out == {}
    assert {c.metric for c in spots.checks} == {"si_sdr", "estoi"}
    assert all(c.agrees for c in spots.checks)
    found = records.read(studies.path_of("01_few"), studies.ROWS)
    found.rows["si_sdr"] += 1.0
    records.write(studies.path_of("01_few"), found.facts, found.rows, studies.ROWS)
    checks = list(studies.check("01_few", toy, studies.load("01_few").parts(toy)))
    assert {c.metric for c in checks if not c.agrees} == {"si_sdr"}


def test_an_unknown_study_is_named(where):
    with pytest.raises(RecordError, match="no study '02_many'; there are 01_few"):
        studies.load("02_many")


def test_every_study_of_the_book_names_its_cards_and_sets(monkeypatch):
    known = records.sets()
    assert studies.names()
    for name in studies.names():
        script = studies.load(name)
        assert script.__doc__
        assert set(script.SETS) <= known.keys()
        assert studies._needs(name)["cards"].keys() == {*script.CARDS}


def test_the_records_in_git_are_valid_and_small():
    files = [path for path in records.folder().rglob("*.csv") if ".part." not in path.name]
    assert files
    of_sets = {records.path_of(row.set, row.method): row.problem for row in records.overview().itertuples()}
    of_studies = {studies.path_of(name): studies.state(name)[1] for name in studies.names()}
    assert {path: (of_sets | of_studies).get(path, "belongs to nothing") for path in files} == dict.fromkeys(files, "")
    assert sum(path.stat().st_size for path in files) < 6e6
