"""The ledger: a verdict follows from the evidence, and only from evidence that can carry one."""

import json
import math

import numpy as np
import pytest
import torch

from sepriors.claims import ClaimError, Estimate, Ledger, bootstrap, judge, read_claims

CLAIMS = {
    "1a": {"id": "1a", "source": "x", "statement": "up & up", "published": "<2>", "chapter": "01"},
    "1b": {"id": "1b", "source": "x", "statement": "down", "published": "3", "chapter": "01"},
    "2a": {"id": "2a", "source": "x", "statement": "round", "published": "4", "chapter": "02"},
}
REAL = {"profile": "book", "is_real": True, "corpus": "people"}
UP, DOWN, BOTH = Estimate(2, 1, 3, 9, "si-sdr"), Estimate(-2, -3, -1, 9, "down"), Estimate(0, -1, 1, 9, "both")


# ----------------------------------------------------------------------- intervals


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        e = bootstrap(rng.normal(3, 2, 40), resamples=500, seed=trial)
        hits += e.low <= 3 <= e.high
    assert 0.90 < hits / 300 < 0.98


def test_the_interval_of_many_is_the_normal_one():
    x = np.random.default_rng(0).normal(5, 2, 4000)
    e = bootstrap(x, "label")
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert e.value == pytest.approx(x.mean())
    assert e.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert e.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert (e.n, e.label) == (4000, "label")
    assert bootstrap(x, "label") == e  # seeded
    shifted = bootstrap(2 * x + 1)
    assert (shifted.low, shifted.high) == pytest.approx((2 * e.low + 1, 2 * e.high + 1))


def test_what_is_no_number_is_left_out_and_counted():
    e = bootstrap([1.0, math.nan, 3.0, math.inf, -math.inf])
    assert (e.value, e.n) == (2.0, 2)
    assert e == bootstrap([1.0, 3.0])
    assert bootstrap(torch.tensor([1.0, 3.0])) == e
    for nothing in ([], [math.nan, math.inf]):
        with pytest.raises(ClaimError, match="delta: expected at least one finite value, got none"):
            bootstrap(nothing, "delta")


def test_groups_are_drawn_whole():
    """Excerpts of one recording are not so many recordings: the interval is that of the recordings' means."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, 30)
    x, names = np.repeat(means, 6), np.repeat([f"recording {i}" for i in range(30)], 6)
    grouped, alone, apart = bootstrap(x, groups=names), bootstrap(means), bootstrap(x)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.n == 180
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert grouped.high - grouped.low > 2 * (apart.high - apart.low)
    assert bootstrap(x, groups=[str(i) for i in range(180)]).low == pytest.approx(apart.low, abs=0.05)
    assert bootstrap([*x, math.nan], groups=[*names, "gone"]) == grouped  # a group with no value is no group


def test_one_group_has_no_interval_and_carries_no_verdict():
    e = bootstrap([1.0, 2.0, 3.0], groups=["a", "a", "a"])
    assert (e.value, e.n) == (2.0, 3)
    assert math.isnan(e.low)
    assert math.isnan(e.high)
    assert judge([e], above=0) == judge([e], below=0) == "not judged"


def test_how_an_estimate_reads():
    assert str(Estimate(1.23456, 1, 1.5, 9)) == "1.23 [1, 1.5]"


# ------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("evidence", "bound", "verdict"),
    [
        ([UP], {"above": 0}, "holds"),
        ([UP], {"below": 0}, "fails"),
        ([DOWN], {"above": 0}, "fails"),
        ([DOWN], {"below": 0}, "holds"),
        ([BOTH], {"above": 0}, "not judged"),
        ([BOTH], {"below": 0}, "not judged"),
        ([UP, UP], {"above": 0.5}, "holds"),
        ([UP, BOTH], {"above": 0}, "not judged"),
        ([UP, DOWN], {"above": 0}, "fails"),  # one that is plainly wrong is enough
        ([BOTH, DOWN], {"above": 0}, "fails"),
        ([DOWN, UP], {"below": 0}, "fails"),
        ([UP], {"above": 1}, "not judged"),  # the bound itself is not beyond the bound
        ([UP], {"below": 3}, "not judged"),
        ([UP], {"above": 0.999}, "holds"),
        ([UP], {"below": 3.001}, "holds"),
        ([UP], {"above": 3}, "not judged"),
        ([UP], {"above": 3.001}, "fails"),
        ([Estimate(1, 1, 1, 3)], {"above": 1}, "not judged"),
        ([Estimate(1, math.nan, math.nan, 3)], {"above": 0}, "not judged"),
        ([Estimate(1, 0.5, math.nan, 3)], {"above": 0}, "not judged"),
        ([Estimate(1, math.nan, 0.5, 3)], {"below": 0}, "not judged"),
        ([Estimate(1, -math.inf, math.inf, 3)], {"above": 0}, "not judged"),
    ],
)
def test_the_table_of_verdicts(evidence, bound, verdict):
    assert judge(evidence, **bound) == verdict
    mirrored = [Estimate(-e.value, -e.high, -e.low, e.n) for e in evidence]
    other = {"below" if side == "above" else "above": -b for side, b in bound.items()}
    assert judge(mirrored, **other) == verdict


def test_no_verdict_without_evidence_or_a_bound():
    with pytest.raises(ClaimError, match="expected at least one estimate"):
        judge([], above=0)
    for bounds in ({}, {"above": 0, "below": 1}):
        with pytest.raises(ClaimError, match="expected one bound"):
            judge([UP], **bounds)


# ---------------------------------------------------------------------- the ledger


def test_a_chapter_judges_its_claims():
    ledger = Ledger("01", CLAIMS, REAL)
    assert ledger.judge("1a", [UP], above=0, unit="dB") == "holds"
    assert ledger.judge("1b", [UP, DOWN], below=0, reason="because") == "fails"
    assert ledger.verdicts["1a"]["predicate"] == "every interval above 0 dB"
    assert ledger.verdicts["1a"]["reason"] == ""
    assert ledger.verdicts["1b"]["reason"] == "because"
    assert ledger.verdicts["1b"]["evidence"][1] == DOWN._asdict()
    assert ledger.judge("1a", [BOTH], above=0, reason="More files would tell.") == "not judged"
    assert ledger.verdicts["1a"]["reason"] == (
        "an interval holds the bound: undecided on 9 files. More files would tell."
    )
    html = ledger._repr_html_()
    for text in ("up &amp; up", "&lt;2&gt;", "<strong>fails</strong>", "because"):
        assert text in html
    for text in ("si-sdr: 2 [1, 3], n = 9", "down: −2 [−3, −1], n = 9"):
        assert text in html


def test_a_failure_is_explained_or_refused():
    ledger = Ledger("01", CLAIMS, REAL)
    with pytest.raises(ClaimError, match="claim '1a' fails: say why"):
        ledger.judge("1a", [DOWN], above=0)
    assert ledger.verdicts == {}


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"profile": "smoke", "is_real": True}, "a smoke run, its numbers carry no verdict"),
        ({"profile": "smoke", "is_real": False}, "a smoke run, its numbers carry no verdict"),
        ({"profile": "book", "is_real": False}, "synthetic speech, claims are judged on real speech only"),
        ({"profile": "paper", "is_real": False}, "synthetic speech, claims are judged on real speech only"),
    ],
)
@pytest.mark.parametrize("evidence", [UP, DOWN, BOTH])
def test_smoke_and_synthetic_speech_carry_no_verdict(facts, why, evidence):
    ledger = Ledger("01", CLAIMS, facts)
    assert ledger.judge("1a", [evidence], above=0) == "not judged"
    assert ledger.verdicts["1a"]["reason"] == why


def test_claims_of_another_chapter_or_of_none():
    ledger = Ledger("01", CLAIMS, REAL)
    for name in ("2a", "9z"):
        with pytest.raises(ClaimError, match=f"unknown claim '{name}' of chapter 01; it has 1a, 1b"):
            ledger.judge(name, [UP], above=0)
    with pytest.raises(ClaimError, match="it has none"):
        Ledger("03", CLAIMS, REAL).judge("1a", [UP], above=0)


def test_the_record(tmp_path, monkeypatch):
    monkeypatch.delenv("SEPRIORS_BUILD", raising=False)
    Ledger("01", CLAIMS, REAL).judge("1a", [UP], above=0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    ledger = Ledger("01", CLAIMS, REAL)
    odd = Estimate(np.float32(2), torch.tensor(1.0), np.float64(3), np.int64(9))  # as a notebook may have them
    ledger.judge("1a", [odd], above=0)
    ledger.judge("1b", [DOWN], below=0)
    folder = tmp_path / "records" / "01"
    assert [p.name for p in folder.iterdir()] == ["claims.json"]
    record = json.loads((folder / "claims.json").read_text())
    assert record["corpus"] == "people"
    assert record["chapter"] == "01"
    assert [v["verdict"] for v in record["verdicts"]] == ["holds", "holds"]
    assert record["verdicts"][0]["evidence"][0] == {"value": 2, "low": 1, "high": 3, "n": 9, "label": ""}


def test_the_file_of_claims(tmp_path, monkeypatch):
    path = tmp_path / "claims.toml"

    def write(*claims):
        path.write_text("".join("[[claim]]\n" + "".join(f'{k} = "{v}"\n' for k, v in c.items()) for c in claims))

    write(*CLAIMS.values())
    assert read_claims(path) == CLAIMS
    monkeypatch.chdir(tmp_path)
    assert Ledger.open("01", REAL).claims == CLAIMS
    write(CLAIMS["1a"], CLAIMS["1a"])
    with pytest.raises(ClaimError, match="claim '1a' stands twice"):
        read_claims(path)
    write({"id": "1a", "chapter": "01"})
    with pytest.raises(ClaimError, match="claim '1a' lacks published, source, statement"):
        read_claims(path)
    write({"chapter": "01"})
    with pytest.raises(ClaimError, match=r"claim '\?' lacks id"):
        read_claims(path)
    path.write_text("")
    assert read_claims(path) == {}


def test_a_notebook_taken_alone_judges_without_the_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger.open("01", REAL)
    assert ledger.judge("1a", [UP], above=0) == "holds"
    assert "see claims.toml" in ledger._repr_html_()
