"""The ledger: a verdict follows from the evidence, and only from evidence that can carry one."""

import json
import math

import numpy as np
import pytest
import torch

from sepriors.lab.claims import ClaimError, Interval, Ledger, bootstrap, judge, read_claims

CLAIMS = {
    "1a": {"id": "1a", "source": "x", "statement": "up & up", "published": "<2>", "chapter": "01"},
    "1b": {"id": "1b", "source": "x", "statement": "down", "published": "3", "chapter": "01"},
    "2a": {"id": "2a", "source": "x", "statement": "round", "published": "4", "chapter": "02"},
}
REAL = {"profile": "book", "is_real": True, "corpus": "people"}
UP, DOWN, BOTH = Interval(2, 1, 3, 9, "si-sdr"), Interval(-2, -3, -1, 9, "down"), Interval(0, -1, 1, 9, "both")


# ----------------------------------------------------------------------- intervals


def test_the_interval_of_many_is_the_normal_one():
    x = np.random.default_rng(0).normal(5, 2, 4000)
    e = bootstrap(x, "label")
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert e.value == pytest.approx(x.mean())
    assert (e.low, e.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.1 * half)
    assert (e.n, e.label) == (4000, "label")
    assert bootstrap(x, "label") == e  # seeded
    shifted = bootstrap(2 * x + 1)
    assert (shifted.low, shifted.high) == pytest.approx((2 * e.low + 1, 2 * e.high + 1))


def test_what_is_no_number_is_left_out_and_counted():
    e = bootstrap([1.0, math.nan, 3.0, math.inf, -math.inf])
    assert (e.value, e.n, e.missing) == (2.0, 2, 3)
    assert e[:4] == bootstrap([1.0, 3.0])[:4] == bootstrap(torch.tensor([1.0, 3.0]))[:4]
    assert str(e) == "2 [1, 3] (2/5)"
    for nothing in ([], [math.nan, math.inf]):
        with pytest.raises(ClaimError, match="delta: expected at least one finite value, got none"):
            bootstrap(nothing, "delta")


@pytest.mark.parametrize("factor", ["speakers", "recordings"])
def test_clusters_are_drawn_whole(factor):
    """Excerpts of one recording are not so many recordings: the interval is that of the recordings' means."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, 30)
    x, names = np.repeat(means, 6), np.repeat([f"recording {i}" for i in range(30)], 6)
    grouped, alone, apart = bootstrap(x, **{factor: names}), bootstrap(means), bootstrap(x)
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.n == 180
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert grouped.high - grouped.low > 2 * (apart.high - apart.low)
    assert bootstrap(x, **{factor: [str(i) for i in range(180)]}).low == pytest.approx(apart.low, abs=0.05)
    more = bootstrap([*x, math.nan], **{factor: [*names, "gone"]})  # a cluster with no value is no cluster
    assert more == grouped._replace(missing=1)


def spread(x, resamples=20_000, **clusters):
    """The standard deviation that an interval stands for."""
    e = bootstrap(x, resamples=resamples, **clusters)
    return (e.high - e.low) / (2 * 1.96)


def test_two_ways_have_the_variance_of_the_closed_form():
    """Balanced, x = u_i + v_j: a mean under weights a_i b_j is that of u under a plus that of v under b.

    So the bootstrap's variance is var(u) / S + var(v) / R (Owen, 2007), and one way alone has one of the two terms.
    """
    rng = np.random.default_rng(0)
    u, v = rng.normal(0, 2, 40), rng.normal(0, 1, 50)
    x, speakers, recordings = (part.ravel() for part in (u[:, None] + v, *np.mgrid[:40, :50]))
    terms = u.var() / 40, v.var() / 50
    assert spread(x, speakers=speakers, recordings=recordings) == pytest.approx(sum(terms) ** 0.5, rel=0.03)
    assert spread(x, speakers=speakers) == pytest.approx(terms[0] ** 0.5, rel=0.03)
    assert spread(x, recordings=recordings) == pytest.approx(terms[1] ** 0.5, rel=0.03)


def test_two_ways_are_careful_with_what_is_each_files_own():
    """Where neither speaker nor recording matters the variance is three times too large, as Owen (2007) has it."""
    noise = np.random.default_rng(0).normal(0, 1, (40, 40))
    x, speakers, recordings = (part.ravel() for part in (noise, *np.mgrid[:40, :40]))
    ratio = spread(x, 8000, speakers=speakers, recordings=recordings) / (x.std() / 40)
    assert ratio == pytest.approx(3**0.5, rel=0.08)


def test_a_draw_without_a_file_is_drawn_again():
    """Speaker b never met recording x: a draw of these two alone has no file."""
    e = bootstrap([1.0, 3.0, 2.0], speakers=["a", "b", "a"], recordings=["x", "y", "y"])
    assert (e.value, e.low, e.high) == (2.0, 1.0, 3.0)


def test_speakers_that_meet_one_recording_each_are_drawn_with_it():
    x, files = np.random.default_rng(0).normal(0, 1, 60), np.arange(60)
    assert spread(x, speakers=files, recordings=files[::-1]) == pytest.approx(x.std() / 60**0.5, rel=0.03)
    nested = {"speakers": files // 2, "recordings": files // 6}
    assert bootstrap(x, **nested) == bootstrap(x, recordings=nested["recordings"])
    assert bootstrap(x, speakers=files // 6, recordings=files // 2) == bootstrap(x, speakers=files // 6)
    crossed = {"speakers": files // 2, "recordings": (files + 1) // 2 % 30}
    assert bootstrap(x, **crossed) != bootstrap(x, speakers=files // 2)


@pytest.mark.parametrize(("values", "clusters", "why"), [
    ([0.3], {}, "one file"),
    ([0.3], {"speakers": ["a"], "recordings": ["x"]}, "one file"),
    ([0.3, math.nan], {}, "one file"),
    ([1.0, 2.0, 3.0], {"recordings": ["x", "x", "x"]}, "one recording"),
    ([1.0, 2.0, 3.0], {"speakers": ["a", "a", "a"], "recordings": ["x", "y", "z"]}, "one speaker"),
    ([1.0, 2.0, 3.0], {"speakers": ["a", "b", "c"], "recordings": ["x", "x", "x"]}, "one recording"),
    ([1.0, 2.0, math.nan], {"speakers": ["a", "a", "b"]}, "one speaker"),
    ([1.0, 2.0], {"speakers": ["a", "a"], "recordings": ["x", "x"]}, "one speaker and one recording"),
])  # fmt: skip
def test_one_of_a_kind_has_no_interval_and_carries_no_verdict(values, clusters, why):
    e = bootstrap(values, "delta", **clusters)
    assert e[:3] == pytest.approx((np.nanmean(values), math.nan, math.nan), nan_ok=True)
    assert (e.why, "(no interval)" in str(e)) == (why, True)
    assert judge([e], above=-9) == judge([e], below=9) == judge([UP, e], above=0) == "not judged"
    ledger = Ledger("01", CLAIMS, REAL)
    assert ledger.judge("1a", [e], above=0, reason="More would tell.") == "not judged"
    assert ledger.verdicts["1a"]["reason"] == f"no interval: {why}. More would tell."
    assert f"no interval, n = {e.n}" in ledger._repr_html_()


# ------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(("evidence", "bound", "verdict"), [
    ([UP], {"above": 0}, "holds"),
    ([UP], {"below": 0}, "fails"),
    ([BOTH], {"above": 0}, "not judged"),
    ([UP, BOTH], {"above": 0}, "not judged"),
    ([UP, DOWN], {"above": 0}, "fails"),  # one that is plainly wrong is enough
    ([BOTH, DOWN], {"above": 0}, "fails"),
    ([UP], {"above": 1}, "not judged"),  # the bound itself is not beyond the bound
    ([UP], {"above": 3.001}, "fails"),
    ([Interval(1, math.nan, math.nan, 3)], {"above": 0}, "not judged"),
    ([Interval(1, 0.5, math.nan, 3)], {"above": 0}, "not judged"),
    ([Interval(1, -math.inf, math.inf, 3)], {"above": 0}, "not judged"),
])  # fmt: skip
def test_the_table_of_verdicts(evidence, bound, verdict):
    assert judge(evidence, **bound) == verdict
    mirrored = [Interval(-e.value, -e.high, -e.low, e.n) for e in evidence]
    other = {"below" if side == "above" else "above": -b for side, b in bound.items()}
    assert judge(mirrored, **other) == verdict


def test_no_verdict_without_evidence_or_a_bound():
    for evidence, bounds, what in (([], {"above": 0}, "at least one estimate"), ([UP], {}, "one bound"),
                                   ([UP], {"above": 0, "below": 1}, "one bound")):  # fmt: skip
        with pytest.raises(ClaimError, match=f"expected {what}"):
            judge(evidence, **bounds)


# ---------------------------------------------------------------------- the ledger


def test_a_chapter_judges_its_claims():
    ledger = Ledger("01", CLAIMS, REAL)
    assert ledger.judge("1a", [UP], above=0, unit="dB") == "holds"
    assert ledger.judge("1b", [UP, DOWN], below=0, reason="because") == "fails"
    assert [ledger.verdicts["1a"][key] for key in ("predicate", "reason")] == ["every interval above 0 dB", ""]
    assert ledger.verdicts["1b"]["reason"] == "because"
    assert ledger.verdicts["1b"]["evidence"][1] == DOWN._asdict()
    assert ledger.judge("1a", [BOTH], above=0, reason="More files would tell.") == "not judged"
    undecided = "an interval holds the bound: undecided on 9 files. More files would tell."
    assert ledger.verdicts["1a"]["reason"] == undecided
    html = ledger._repr_html_()
    for text in ("up &amp; up", "&lt;2&gt;", "<strong>fails</strong>", "because", "down: −2 [−3, −1], n = 9"):
        assert text in html


def test_a_failure_without_a_reason_is_shown_as_such(tmp_path, monkeypatch):
    """Other data may change a verdict; a reader's book is built all the same, and whoever publishes can ask."""
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    ledger = Ledger("01", CLAIMS, REAL)
    assert ledger.judge("1a", [DOWN], above=0) == "fails"
    assert ledger.judge("1b", [UP], below=0, reason="because") == "fails"
    assert ledger.unexplained == ["1a"]
    assert "<strong>fails</strong><br><small>no reason has been written</small>" in ledger._repr_html_()
    record = json.loads((tmp_path / "records" / "01" / "claims.json").read_text())
    assert record["verdicts"][0]["reason"] == "no reason has been written"


@pytest.mark.parametrize(("facts", "why"), [
    ({"profile": "smoke", "is_real": True}, "a smoke run, its numbers carry no verdict"),
    ({"profile": "book", "is_real": False}, "synthetic speech, claims are judged on real speech only"),
])  # fmt: skip
def test_smoke_and_synthetic_speech_carry_no_verdict(facts, why):
    ledger = Ledger("01", CLAIMS, facts)
    for evidence in (UP, DOWN, BOTH):
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
    odd = Interval(np.float32(2), torch.tensor(1.0), np.float64(3), np.int64(9))  # as a notebook may have them
    ledger.judge("1a", [odd], above=0)
    ledger.judge("1b", [DOWN], below=0)
    folder = tmp_path / "records" / "01"
    assert [p.name for p in folder.iterdir()] == ["claims.json"]
    record = json.loads((folder / "claims.json").read_text())
    assert (record["corpus"], record["chapter"]) == ("people", "01")
    assert [v["verdict"] for v in record["verdicts"]] == ["holds", "holds"]
    expected = {"value": 2, "low": 1, "high": 3, "n": 9, "label": "", "missing": 0, "why": ""}
    assert record["verdicts"][0]["evidence"][0] == expected


def test_the_file_of_claims(tmp_path, monkeypatch):
    path = tmp_path / "claims.toml"

    def write(*claims):
        path.write_text("".join("[[claim]]\n" + "".join(f'{k} = "{v}"\n' for k, v in c.items()) for c in claims))

    write(*CLAIMS.values())
    assert read_claims(path) == CLAIMS
    monkeypatch.chdir(tmp_path)
    assert Ledger.open("01", REAL).claims == CLAIMS
    for wrong, message in (([CLAIMS["1a"]] * 2, "claim '1a' stands twice"), ([{"chapter": "01"}], r"'\?' lacks id"),
                           ([{"id": "1a", "chapter": "01"}], "'1a' lacks published, source, statement")):  # fmt: skip
        write(*wrong)
        with pytest.raises(ClaimError, match=message):
            read_claims(path)
    path.write_text("")
    assert read_claims(path) == {}


def test_a_notebook_taken_alone_judges_without_the_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger.open("01", REAL)
    assert ledger.judge("1a", [UP], above=0) == "holds"
    assert "see claims.toml" in ledger._repr_html_()


def test_records_of_real_speech_are_judged_where_no_corpora_are(tmp_path, monkeypatch):
    ledger = Ledger("01-x", {}, {"profile": "book", "is_real": False})
    sure = [Interval(2.0, 1.0, 3.0, 9)]
    assert ledger.judge("1a", sure, above=0) == "not judged"
    assert ledger.judge("1a", sure, above=0, record="matched") == "holds"
    assert ledger.verdicts["1a"]["record"] == "matched"
    assert "records: matched" in ledger._repr_html_()
    hurried = Ledger("01-x", {}, {"profile": "smoke", "is_real": False})
    assert hurried.judge("1a", sure, above=0, record="matched") == "not judged"
