"""Pages that are written from the package and the records: complete, and true to what they are written from."""

import json
import re

import pandas as pd
import pytest

from sepriors.weights import cards, folder
from tools.pages import records, weights

CARDS = cards()

# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    return weights.page()


def row(page, name):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| **{name}**")]
    return line


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_on_the_page_with_hash_licence_command_and_training(page, name):
    line, card = row(page, name), CARDS[name]
    assert f'title="sha256 {card["sha256"]}"' in line
    assert f"`{card['command']}`" in line
    assert f"{card['train_seconds']:.0f} s on " in line
    assert card["licence"].split("; ")[0] in line
    assert f"{card['minutes']} minutes" in line


@pytest.mark.parametrize("name", CARDS)
def test_weights_that_do_not_ship_are_said_not_to(page, name):
    shipped = CARDS[name].get("shipped", True)
    assert ("*not in the package*" in row(page, name)) != shipped
    assert bool(re.search(r"[\d,]+ parameters", row(page, name))) == shipped
    assert weights.family(name) != "–"


def test_the_total_is_that_of_the_files(page):
    files = list(folder().glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files) / 1e6
    assert f"{len(files)} of them with weights in the package: {size:.1f} MB in all" in page


def test_parameters_are_counted(page):
    assert "32,832 parameters" in row(page, "nmf-speech")  # 513 bins, 64 bases


def test_who_uses_a_card(page):
    assert weights.methods_of("nmf-noise-257") == ["nmf-supervised"]
    assert "01-wiener-nmf" in weights.chapters_of("nmf-noise-257")
    assert weights.chapters_of("vae-seed2") == ["02-vae-nmf"]  # by f"vae-seed{i}"
    assert "`vae-ldem`<br>" in row(page, "vae")
    assert "[](/book/02-vae-nmf.ipynb)" in row(page, "vae")


# ---- records --------------------------------------------------------------------------------------------------------

FACTS = {"profile": "book", "seed": 3, "corpus": {"name": "emodb", "speakers": 2}, "commit": "abc"}
HARDWARE = {"hardware": {"cpu": "Z80", "cores": 2, "gpu": None}, "finished": "2026-01-02"}


def bench_row(method, file, **measures):
    return {"method": method, "snr_db": 0.0, "file": file, "seed": 3, **measures, "why": ""}


@pytest.fixture
def tree(tmp_path):
    """What a chapter leaves: claims, a bench, a table of another form, the facts of its run."""
    folder = tmp_path / "records" / "01-small"
    folder.mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    evidence = {"label": "at 0 dB", "value": 1.5, "low": 1.0, "high": 2.0, "n": 8}
    verdict = {"id": "1a", "verdict": "holds", "unit": "dB", "evidence": [evidence]}
    bench = [bench_row("nmf", f"a+{i}", stoi=i / 10, si_sdr=None if i else 4.0) for i in range(3)]
    odd = [{"remedy": "decay", "run": i, "area": 0.5 + i} for i in range(2)]
    for name, content in {
        "claims": {**FACTS, "verdicts": [verdict]},
        "bench-white": {**FACTS, **HARDWARE, "records": bench},
        "bench-odd": {**FACTS, **HARDWARE, "records": odd},
        "bench-empty": {**FACTS, "records": []},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    run = {"profile": "book", "seed": 3, "commit": "run", "finished": "2026", "cpu": "Z80", "cores": 1}
    (tmp_path / "runs" / "01-small.json").write_text(json.dumps(run))
    records.write_records(tmp_path)
    return tmp_path


def test_records_are_all_in_one_json(tree):
    found = {part["record"]: part for part in json.loads((tree / "records" / "records.json").read_text())}
    assert sorted(found) == ["bench-empty", "bench-odd", "bench-white", "claims"]
    for name, part in found.items():
        own = json.loads((tree / "records" / "01-small" / f"{name}.json").read_text())
        assert own.items() <= part.items()
        assert part["chapter"] == "01-small"
    assert found["claims"]["hardware"] == {"cpu": "Z80", "cores": 1}  # from the run, which knows
    assert found["bench-white"]["hardware"]["cores"] == 2


def test_the_long_table_has_a_row_a_figure(tree):
    table = pd.read_csv(tree / "records" / "records.csv").set_index("metric")
    assert list(table.reset_index()[records.COLUMNS].columns) == records.COLUMNS
    assert sorted(table.index) == ["area", "at 0 dB", "si_sdr", "stoi"]
    claim = table.loc["at 0 dB"]
    assert (claim["claim"], claim["verdict"], claim["value"], claim["n"], claim["unit"]) == (
        "1a",
        "holds",
        1.5,
        8,
        "dB",
    )
    stoi = table.loc["stoi"]
    assert (stoi["method"], stoi["snr_db"], stoi["value"], stoi["n"]) == ("nmf", 0, pytest.approx(0.1), 3)
    assert stoi["low"] < stoi["value"] < stoi["high"]
    assert table.loc["si_sdr", "n"] == 1  # two files have no value
    assert (table.loc["area", "of"], table.loc["area", "value"]) == ("remedy: decay", 1)
    assert set(table["corpus"]) == {"name: emodb; speakers: 2"}
    assert set(table["hardware"]) == {"Z80, 1 cores", "Z80, 2 cores"}
    assert set(table["commit"]) == {"abc"}


def test_a_book_without_records_has_empty_files(tmp_path):
    records.write_records(tmp_path)
    assert json.loads((tmp_path / "records" / "records.json").read_text()) == []
    assert len(pd.read_csv(tmp_path / "records" / "records.csv")) == 0
