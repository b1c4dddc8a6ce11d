"""Pages that are written from the package and the records: complete, and true to what they are written from."""

import ast
import json
import re

import pandas as pd
import pytest

from sepriors.lab.claims import Interval, Ledger, bootstrap
from sepriors.methods import METHODS
from sepriors.weights import cards, folder
from tools import ROOT, contents
from tools.pages import api, ledger, records, run, text, weights

# ---- weights --------------------------------------------------------------------------------------------------------


def test_every_card_is_on_the_page_with_hash_licence_command_training_and_who_uses_it():
    page = weights.page()
    rows = {name: row for row in page.split("\n* - ") if (name := row.removeprefix("**").split("**")[0]) in cards()}
    assert rows.keys() == cards().keys()
    for name, card in cards().items():
        assert f'title="sha256 {card["sha256"]}"' in rows[name]
        assert f"{card['train_seconds']:.0f} s on " in rows[name]
        assert f"<br>`{card['command']}`" in rows[name]
        assert card["licence"].split("; ")[0] in rows[name]
        assert f"{card['minutes']} minutes" in rows[name]
        is_shipped = card.get("shipped", True)
        assert ("*not in the package*" in rows[name]) != is_shipped
        assert bool(re.search(r"[\d,]+ parameters", rows[name])) == is_shipped
        assert weights.family(name) != "–"
    files = list(folder().glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files) / 1e6
    assert f"{len(files)} of them with weights in the package: {size:.1f} MB in all" in page
    assert "32,832 parameters" in rows["nmf-speech"]  # 513 bins, 64 bases
    assert "`vae-ldem`<br>" in rows["vae"]
    assert "[](/book/02-vae-nmf.ipynb)" in rows["vae"]
    assert weights.methods_of("nmf-noise-257") == ["nmf-supervised"]
    assert "01-wiener-nmf" in weights.chapters_of("nmf-noise-257")
    assert weights.chapters_of("vae-seed2") == ["02-vae-nmf"]  # by f"vae-seed{i}"


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
    assert list(claim[["claim", "verdict", "value", "n", "unit"]]) == ["1a", "holds", 1.5, 8, "dB"]
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


def test_a_file_without_a_value_at_one_snr_is_in_no_mean_of_the_long_table():
    rows = [bench_row("nmf", file, stoi=0.5) | {"snr_db": snr} for snr in (-5.0, 0.0) for file in ("a", "b", "c")]
    rows[2]["stoi"] = None  # c at -5 dB
    rows[5]["stoi"] = 0.9  # c at 0 dB
    table = records.long_table([{"chapter": "01", "record": "bench-real", "records": rows}])
    assert list(table["value"]) == [0.5, 0.5]
    assert list(table["n"]) == [2, 2]
    assert list(table["missing"]) == [1, 1]


# ---- the ledger -----------------------------------------------------------------------------------------------------


def test_a_claim_that_fails_without_a_reason_is_named_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    claim = {"source": "x2020", "statement": "It helps.", "published": "", "chapter": "01"}
    claims = [claim | {"id": id} for id in ("1a", "1b")]
    chapter = Ledger("01", {claim["id"]: claim for claim in claims}, {"profile": "book", "is_real": True})
    below, bare = Interval(-2, -3, -1, 9, "down"), bootstrap([1.0, 2.0], "alone", speakers=["a", "a"])
    chapter.judge("1a", [below], above=0)
    chapter.judge("1b", [bare], above=0)
    record = {"01": json.loads((tmp_path / "records" / "01" / "claims.json").read_text())}
    judged = ledger.judge(claims, record, ["01"])
    assert ledger.unexplained(judged) == ["1a"]
    page = ledger.page(judged)
    assert "**Fails, and no reason has been written**: 1a." in page
    assert "*no reason has been written*" in page
    assert "alone: 1.5, no interval (one speaker), n = 2" in page
    assert "*no interval: one speaker.*" in page
    chapter.judge("1a", [below], above=0, reason="because")
    record = {"01": json.loads((tmp_path / "records" / "01" / "claims.json").read_text())}
    assert "no reason has been written" not in ledger.page(ledger.judge(claims, record, ["01"]))


# ---- the API --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    return api.pages()


def test_the_api_is_the_package_module_by_module_with_every_public_docstring(reference):
    assert [name for name in contents() if name.startswith("book/api")] == [f"book/{name}" for name in reference]
    files = {path for paths in api.rooms().values() for path in paths}
    assert files == set((ROOT / "sepriors").rglob("*.py")) - set((ROOT / "sepriors" / "cards").glob("*.py"))
    shown = "\n".join(reference.values())
    for path in files - {ROOT / "sepriors" / "__init__.py"}:  # the face: on the index
        assert f"\n(api-{api.module(path)})=\n## {text.prose(api.module(path))}\n" in shown
        assert f"](api-{api.module(path)}): " in reference["api"]
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, api.Function | ast.ClassDef) and api._is_public(node):
                assert f"\n### {node.name}\n" in shown
                assert text.docstring(ast.get_docstring(node)) in shown, f"{path.name}: {node.name}"


def test_a_docstring_keeps_code_and_formulas_and_fences_its_examples():
    shown = text.docstring("A [b] of `x[i]`, $a*b$ * c.\n\n>>> one = (\n...     1)\n>>> one\n1\n\nMore <of> it.")
    assert shown == (
        "A \\[b] of `x[i]`, $a*b$ \\* c.\n\n```pycon\n>>> one = (\n...     1)\n>>> one\n1\n```\n\nMore \\<of> it."
    )


SOURCE = """
@dataclass(frozen=True)
class Choice(Base):
    \"\"\"It is.\"\"\"
    size: int = 1  # samples
    name: str = "a"

class Made:
    at = 1
    def __init__(self, size: int = 3) -> None:
        self.size = size

@cache
def long(
    first: torch.Tensor, *, deep: bool = False
): ...
"""


def test_declarations_stand_as_they_are_written():
    choice, made, long = (api.declaration(n, SOURCE.splitlines()) for n in ast.parse(SOURCE).body)
    fields = '    size: int = 1  # samples\n    name: str = "a"'
    assert choice == f"@dataclass(frozen=True)\nclass Choice(Base):\n{fields}"
    assert made == "class Made:\n    def __init__(self, size: int = 3) -> None:"
    assert long == "@cache\ndef long(\n    first: torch.Tensor, *, deep: bool = False\n): ..."


def test_a_function_knows_its_equation_and_the_command_its_help(reference):
    wiener = reference["api-signal"].split("### wiener")[1].split("##")[0]
    assert "equation {eq}`eq-wiener` of [](/book/01-wiener-nmf.ipynb)" in wiener
    assert "/sepriors/signal/gaussian.py#L" in wiener
    assert "{eq}`eq-vae`" in reference["api-priors"].split("### VAE\n")[1].split("##")[0]  # computed by a method
    assert "### sepriors enhance\n\n```text\nusage: sepriors enhance" in reference["api-core"]


def test_methods_were_measured_on_a_gpu_and_fit_one_of_16_gb_and_the_page_names_those_that_were_not(tmp_path):
    rows = json.loads((ROOT / "benchmarks" / "gpu.json").read_text())["records"]
    missing = set(METHODS) - {row["method"] for row in rows}
    assert missing == {"npe", "vae-ldem-npe"}
    assert "not measured on a GPU yet: `npe`, `vae-ldem-npe`." in run.page([], {}, tmp_path)
    assert max(row["peak_gpu_mb"] for row in rows) < 16e3
    assert all(row["finite"] for row in rows)
