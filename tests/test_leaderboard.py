"""Leaderboard and trust cards: only what the records say, ranks as wide as the files leave them, sortable offline."""

import json
import math
import re
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from sepriors.lab import records, standings
from sepriors.lab.bench import difference
from sepriors.lab.corpora import class_of
from sepriors.methods import METHODS
from sepriors.weights import cards
from tools import ROOT
from tools.pages import leaderboard, trust

GAINS = {"spp-wiener": 1.0, "nmf": 3.0, "bsse": 4.0, "rnnoise": 4.1}


SET = """[{name}]
title = "Here"
kind = "real"
methods = ["spp-wiener", "nmf", "bsse", "rnnoise"]
"""


def table(**gains):
    """Twelve recordings; methods add what is given, give or take a fifth of a decibel in turn."""
    rows = []
    for place in range(12):
        file = f"speaker{place % 6}/speech{place}.flac+noise/{('home', 'street')[place % 2]}/{place}.flac"
        for name, gain in {"noisy": 0.0, **gains}.items():
            value = gain + (gain > 0) * (0.2 if (place + len(name)) % 2 else -0.2)
            measures = dict.fromkeys(("pesq_wb", "estoi", "fwsnrseg", "dnsmos_ovr"), value / 10)
            cost = {"rtf": gain / 100, "peak_mb": 500.0, "why": ""}
            rows.append({"method": name, "file": file, "snr_db": 0.0, "si_sdr": value, **measures, **cost})
    return pd.DataFrame(rows)


def source_of(tmp_path, rows, name="matched"):
    """A folder of sources whose records are these rows."""
    where = tmp_path / "source" / "records"
    where.mkdir(parents=True)
    (where / "sets.toml").write_text(SET.format(name=name))
    made = records.sets(where)[name]
    for method, part in rows.groupby("method"):
        facts = {"set_sha256": made.sha256, "cards": records.cards_of(method)}
        if method in METHODS:
            facts["settings"] = records.settings(records.make(method))
        part = part.drop(columns="method").rename(columns={"file": "key"}).set_index(["key", "snr_db"])
        records.write(records.path_of(name, method, where), facts, part)
    return where.parent


@pytest.fixture
def page(tmp_path):
    return leaderboard.page(tmp_path / "tree", source_of(tmp_path, table(**GAINS)))


def test_every_figure_is_that_of_the_records(page):
    rows = table(**GAINS)
    for name in GAINS:
        line, by_kind = re.findall(rf'<tr><th scope="row">{name}(?: ■)?</th>.*</tr>', page)
        e = difference(rows, "si_sdr", name)
        assert f'data-value="{e.value:.6g}"' in line
        assert f'<td data-value="12">12</td><td data-value="{GAINS[name] / 100:.6g}">' in line
        home = difference(rows[rows["file"].str.contains("/home/")], "si_sdr", name)
        assert f'<td data-value="{home.value:.6g}"' in by_kind
    assert page.count('<th scope="row">') == 2 * len(GAINS)
    assert '<td class="departures">speech starts 15 dB below the mixture</td>' in page
    assert "12 files, 6 speakers, 12 recordings of noise, at 0 dB" in page
    assert "false discovery rate of 5 %" in page


def test_every_table_has_a_name_of_its_own(tmp_path):
    """Screen readers list regions by their names."""
    source = source_of(tmp_path, table(**GAINS))
    sets = source / "records" / "sets.toml"
    sets.write_text(sets.read_text() + SET.format(name="other").replace("Here", "There"))
    shutil.copytree(source / "records" / "matched", source / "records" / "other")
    records.sets.cache_clear()
    labels = re.findall(r'aria-label="([^"]+)"', leaderboard.page(tmp_path / "tree", source))
    assert len(labels) == len(set(labels)) == 4
    assert "Methods and measures: There" in labels


def test_every_row_can_be_downloaded(tmp_path, page):
    assert "{download}`sets.csv </records/sets.csv>`" in page
    rows = pd.read_csv(tmp_path / "tree" / "records" / "sets.csv")
    assert set(rows["method"]) == {"noisy", *GAINS}
    assert set(rows["set"]) == {"matched"}
    assert len(rows) == 12 * 5


def test_a_measure_that_some_lack_is_a_dash_for_them(tmp_path):
    part = table(**GAINS)
    part.loc[part["method"] == "nmf", "dnsmos_ovr"] = math.nan
    found = leaderboard.page(tmp_path, source_of(tmp_path, part))
    rows = re.findall(r'<tr><th scope="row">([\w-]+)(.*)</tr>', found)
    dashes = {name: cells.count("<td>–</td>") for name, cells in reversed(rows)}
    assert dashes == {name: int(name == "nmf") for name in GAINS}


def test_a_stale_record_is_named_and_not_shown(tmp_path):
    source = source_of(tmp_path, table(**GAINS))
    path = records.path_of("matched", "nmf", source / "records")
    path.write_text(path.read_text().replace("3.2000", "9.9000", 1))
    found = leaderboard.page(tmp_path, source)
    assert "`nmf` (its rows are not as they were written)" in found
    assert '<th scope="row">nmf' not in found


def test_two_files_have_neither_interval_nor_rank(tmp_path):
    rows = table(**GAINS)
    rows = rows[rows["file"].isin(rows["file"].unique()[:2])]
    found = leaderboard.page(tmp_path, source_of(tmp_path, rows, name="white"))
    line, _ = re.findall(r'<tr><th scope="row">bsse.*</tr>', found)
    assert "[" not in line
    assert line.count("<td>–</td>") == 1


def test_training_counts_what_a_network_began_from():
    known = cards()
    alone = known["bsse"]["train_seconds"] / 60
    assert standings.made_of("bsse")[1] == pytest.approx(alone + known["ssl"]["train_seconds"] / 60)
    assert standings.made_of("rnnoise") == (0, 0)
    ours, theirs = {"bsse", "diffusion-supervised"}, {"rnnoise", "nsnet2", "dtln", "deepfilternet"}
    simulated = {"npe", "vae-ldem-npe"}
    assert ours | theirs | simulated == standings.SUPERVISED  # trained on pairs


def test_ranks_are_as_wide_as_the_intervals_leave_them():
    rows = table(**GAINS)
    ranks = standings.ranks(rows)
    close = difference(rows, "si_sdr", "rnnoise", "bsse")
    assert close.low < 0 < close.high
    assert ranks == {"spp-wiener": (4, 4), "nmf": (3, 3), "bsse": (1, 2), "rnnoise": (1, 2)}


def test_the_front_is_drawn(tmp_path):
    found = leaderboard.page(tmp_path, source_of(tmp_path, table(**GAINS)))
    assert "Beaten by nobody that is quicker: spp-wiener, nmf, bsse" in found
    drawn = (tmp_path / "book" / "_static" / leaderboard.FIGURE).read_text()
    assert drawn.startswith("<?xml")
    assert "rnnoise" in drawn
    assert "2026" not in drawn


def test_without_records_the_pages_say_so(tmp_path):
    source = source_of(tmp_path, table(noise=1.0)[:0])
    for text in (leaderboard.page(tmp_path, source), trust.page(tmp_path, source)):
        assert "No records" in text
        assert "data-value" not in text


def test_published_figures_stand_apart(page):
    ours, theirs = page.split("## Published, other data")
    assert "MetricGAN-U" in theirs.replace(ours, "")
    assert "data-value" not in theirs
    cited = set(re.findall(r"\{cite:t\}`(\w+)`", theirs))
    known = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
    assert set() < cited <= known


CARD = {"prior": "recurrent VAE", "method": "nmf", "gain in SI-SDR (dB)": "-0.4", "least AUROC": "0.31 (tones)"}
CARD |= {"mean AUROC": "0.80", "fall after the peak (dB)": "1.5"}


def test_cards_and_guide_say_what_the_records_say(tmp_path):
    tree, source = tmp_path / "tree", source_of(tmp_path, table(**GAINS))
    folder = tree / "records" / leaderboard.CHAPTER
    folder.mkdir(parents=True)
    facts = {"profile": "book", "seed": 0, "commit": "abc", "hardware": {"cpu": "a CPU", "cores": 2}}
    (folder / "bench-trust.json").write_text(json.dumps({**facts, "corpus": {"matched": "x"}, "records": [CARD]}))
    (tree / "runs").mkdir()
    data = {"application/papermill.record/text/plain": "'-12'"}
    output = {"metadata": {"scrapbook": {"name": "toy_mh"}}, "data": data}
    (tree / "runs" / "05-samplers.ipynb").write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    text = trust.page(tree, source)
    assert "### Recurrent VAE" in text
    assert "- gain in SI-SDR (dB): −0.4" in text
    assert "a frame at a time -12 %" in text
    assert "**It should just work, at 0.1 of real time or less**: `bsse`" in text
    assert "Not told apart from it, and slower: `rnnoise`." in text
    assert "**There are no pairs to learn from, and real time is enough**: `nmf`" in text
    assert "on 12 files. The others that do are worse." in text
    assert "recurrent VAE: its worst AUROC is 0.31 (tones)" in text
    assert "of recurrent VAE, is 1.5 dB, on three excerpts" in text


@pytest.mark.browser
def test_a_click_sorts(browser, tmp_path, page):
    table = re.search(r'<div class="leaderboard".*?</div>', page, re.DOTALL)[0]
    script = (ROOT / "book" / "_static" / "sortable.js").read_text()
    (tmp_path / "page.html").write_text(f"<!doctype html><title>t</title><script>{script}</script>{table}")
    seen = browser.new_page()
    seen.goto((tmp_path / "page.html").as_uri())
    first = seen.locator("tbody tr th").first
    assert first.inner_text() == "rnnoise ■"
    heading = seen.get_by_role("button", name="RTF")
    heading.click()
    assert heading.locator("..").get_attribute("aria-sort") == "descending"
    assert first.inner_text() == "rnnoise ■"
    heading.press("Enter")
    assert heading.locator("..").get_attribute("aria-sort") == "ascending"
    assert first.inner_text() == "spp-wiener"
    seen.close()


def test_what_is_lost_is_counted_recording_by_recording():
    here = table(nmf=3.0)
    there = here.assign(file=here["file"].str.replace("speaker", "other"), si_sdr=here["si_sdr"] * 0.5)
    e = standings.lost(here, there, ["nmf"])
    assert e.value == pytest.approx(difference(here, "si_sdr", "nmf").value / 2)
    assert e.low < e.value < e.high
    fewer = there[there["file"].str.contains("/home/")]
    home = here[here["file"].str.contains("/home/")]
    assert standings.lost(here, fewer, ["nmf"]).value == pytest.approx(difference(home, "si_sdr", "nmf").value / 2)


def test_verdicts_allow_for_many_comparisons():
    """Eight methods that are alike, and one that is better: of 28 + 8 pairs eight differ, over six draws of noise."""
    false, true, one_by_one = 0, 0, 0
    for seed in range(6):
        rows = table(**{f"m{i}": 1.0 for i in range(8)}, better=3.0)
        noise = np.random.default_rng(seed).standard_normal(len(rows))
        rows["si_sdr"] += np.where(rows["method"] == "noisy", 0.0, 0.5 * noise)
        signs = standings.verdicts(rows)
        alike = signs.drop(index="better", columns="better")
        true += int((signs.loc["better"].drop("better") == 1).sum())
        false += int(alike.abs().to_numpy().sum()) // 2
        apart = [difference(rows, "si_sdr", a, b) for a, b in combinations(alike.index, 2)]
        one_by_one += sum(e.low > 0 or e.high < 0 for e in apart)
    assert true == 6 * 8
    assert false <= standings.FALSE * (true + false)
    assert one_by_one > 3 * standings.FALSE * true  # what single intervals would have said


def test_kinds_are_counted_apart():
    rows = table(**GAINS)
    found = standings.by_kind(rows, class_of)
    assert list(found.columns) == ["home", "street"]
    assert found.loc["nmf", "home"] == pytest.approx(
        difference(rows[rows["file"].map(class_of) == "home"], "si_sdr", "nmf").value
    )
    assert list(found.index) == standings.by_gain(rows)
