"""The pipeline: what it refuses, what it hides, and what it writes."""

import copy
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import process

from tools import ROOT, badges, build, gate, pages, repository, setup_env, timed
from tools.build import publish
from tools.execute import Failed, Job, check_parameters, environment, execute, key
from tools.pages import faults, ledger
from tools.postprocess import machine_paths, mend, scrub

PARAMETERS = 'profile: str = "book"\ncorpus: str = "auto"\nseed: int = 0\ndevice: str = "auto"'
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = {"mystnb": {"image": {"alt": "a figure"}}}


def code(source="1", *outputs, count=1, tags=(), **metadata):
    """An executed code cell."""
    metadata |= {"tags": list(tags)} if tags else {}
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)


def shown(mime, content):
    """A rich output of one type."""
    return nbformat.v4.new_output("display_data", data={mime: content})


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def notebook(*cells):
    title = nbformat.v4.new_markdown_cell("# Title\n\n<!-- badges -->")
    return nbformat.v4.new_notebook(cells=[title, *cells], metadata={"kernelspec": KERNEL})


def sound():
    """An executed notebook with one of everything that is allowed."""
    return notebook(
        code(PARAMETERS, tags=["parameters"]),
        code("seed = 1", tags=["injected-parameters"]),
        code("print(1)", stream("1\n")),
        code("figure", shown("image/png", PNG), **ALT),
        code("glue", shown("application/papermill.record/text/plain", "1")),
        code("warn()", stream("careful", "stderr"), tags=["remove-output"]),
        code("panel", shown("text/html", '<audio src="../_static/audio/1.flac"></audio><img src="a.png" alt="A">')),
        code("", count=None),
        nbformat.v4.new_markdown_cell("See [a site](https://example.org) and <a href='https://example.org'>it</a>."),
    )


# ---- the gate -------------------------------------------------------------------------------------------------------

BROKEN = {
    "not executed": code("1", count=None),
    "raised ValueError": code("1", nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])),
    "papermill reports an exception": code("1", papermill={"exception": True}),
    "shows stderr": code("1", stream("careful", "stderr")),
    "type application/vnd.jupyter.widget-view+json": code("1", shown("application/vnd.jupyter.widget-view+json", {})),
    "text/html output of 50 kB": code("1", shown("text/html", "x" * 50_001)),
    "image/png output of 300 kB": code("1", shown("image/png", "x" * 400_004), **ALT),
    "image without alt text (cell": code("1", shown("image/png", PNG)),
    "image without alt text (cell metadata": code("1", shown("image/png", PNG), mystnb={"image": {"alt": " "}}),
    "image without alt text: a.png": code("1", shown("text/html", '<img src="a.png">')),
    "carries audio as base64": code("1", shown("text/html", '<audio src="data:audio/flac;base64,AA"></audio>')),
    "another host: https://example.org/a.js": code("1", shown("text/html", "<script src='https://example.org/a.js'>")),
    "another host: //example.org/a.png": nbformat.v4.new_markdown_cell('<img alt="a" src="//example.org/a.png">'),
    "another host: https://b.org/b.js": code("1", shown("text/html", '<script>import("https://b.org/b.js")</script>')),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_one_broken_cell_is_one_refusal_with_its_place_and_all_are_listed(reason):
    broken = sound()
    assert list(gate.check_notebook(broken, "01")) == []
    broken.cells.insert(4, copy.deepcopy(BROKEN[reason]))  # the fourth of the source: the injected one is not in it
    (refusal,) = gate.check_notebook(broken, "01")
    assert (refusal.chapter, refusal.cell) == ("01", 4)
    assert reason in refusal.reason
    assert str(refusal).startswith("01, cell 4: ")
    broken.metadata["papermill"] = {"exception": True}
    assert next(str(r) for r in gate.check_notebook(broken, "01")) == "01: papermill reports an exception"


@pytest.fixture
def source(tmp_path):
    """The sources of a book with one small chapter."""
    root = tmp_path / "source"
    (root / "book").mkdir(parents=True)
    chapter = notebook(code(PARAMETERS, tags=["parameters"], count=None), code("import sys\nprint(seed)", count=None))
    nbformat.write(chapter, root / "book" / "01-small.ipynb")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- chapters:\n  - file: book/01-small\n  - file: book/ledger\n"
    )
    shutil.copy(ROOT / "_config.yml", root)
    (root / "book" / "intro.md").write_text("# Intro\n")
    (root / "book" / "claims.toml").write_text(
        '[[claim]]\nid = "1a"\nsource = "shi2021"\nstatement = "It helps."\npublished = "0.1"\nchapter = "01-small"\n'
    )
    return root


def edit(path, change):
    content = nbformat.read(path, as_version=4)
    change(content)
    nbformat.write(content, path)


def test_sources_with_output_outside_the_contents_or_never_run_are_refused(source, tmp_path):
    path = source / "book" / "01-small.ipynb"
    assert [str(r) for r in gate.check_tree(source, tmp_path)] == ["01-small: never ran to its end"]
    edit(path, lambda n: n.cells[2].outputs.append(stream("1")))
    assert [(r.chapter, r.cell) for r in gate.check_source(source)] == [("01-small", 3)]
    edit(path, lambda n: n.cells[2].update(outputs=[], execution_count=1))
    assert [r.cell for r in gate.check_source(source)] == [3]
    nbformat.write(notebook(), source / "book" / "02-lost.ipynb")
    assert [str(r) for r in gate.check_source(source)][1:] == ["02-lost: not in _toc.yml"]


PAGE = '<html><head><link rel="canonical" href="https://example.org/"></head><body>{}</body></html>'
BROKEN_PAGES = {
    "the limit is 200 kB": "x" * 200_001,
    "another host: https://example.org/a.js": '<script src="https://example.org/a.js"></script>',
    "another host: //example.org/a.css": '<link rel="stylesheet" href="//example.org/a.css">',
    "another host: https://example.org/a.png": '<img alt="a" src="https://example.org/a.png">',
    "another host: https://example.org/c.css": "<style>@import 'https://example.org/c.css';</style>",
    "another host: https://example.org/d.png": "p {background: url('https://example.org/d.png')}",
    "carries audio as base64": '<audio src="data:audio/wav;base64,AA"></audio>',
    "image without alt text": '<img src="here.png" alt="here.png">',
    "not there: gone.html": '<a href="gone.html#top">gone</a>',
}


@pytest.mark.parametrize("reason", BROKEN_PAGES)
def test_a_broken_page_is_refused(tmp_path, reason):
    (tmp_path / "here.png").touch()
    (tmp_path / "a.html").write_text(PAGE.format('<img src="here.png" alt="A"><a href="https://example.org">a</a>'))
    assert list(gate.check_pages(tmp_path)) == []
    name, text = "b.html", PAGE.format(BROKEN_PAGES[reason])
    if reason.endswith("d.png"):  # a style sheet
        name, text = "_static/a.css", BROKEN_PAGES[reason]
    (tmp_path / "_static").mkdir()
    (tmp_path / name).write_text(text)
    (refusal,) = gate.check_pages(tmp_path)
    assert refusal.chapter == name
    assert reason in refusal.reason


# ---- execution ------------------------------------------------------------------------------------------------------


def run(source, tree, **parameters):
    execute(source, tree, "smoke", {"corpus": "synthetic", "seed": 3} | parameters, jobs=1)


@pytest.mark.notebook
def test_a_chapter_runs_leaves_its_record_and_is_reused_until_it_changes(source, tmp_path, capsys):
    tree = tmp_path / "tree"
    done, heard = tree / "runs" / "01-small.ipynb", tree / "book" / "_static" / "audio"
    run(source, tree)
    assert nbformat.read(done, as_version=4).cells[-1].outputs[0].text == "3\n"
    record = json.loads(done.with_suffix(".json").read_text())
    assert {"profile": "smoke", "corpus": "synthetic", "seed": 3}.items() <= record.items()
    assert record["seconds"] > 0
    assert 10 < record["peak_mb"] < 10_000
    assert {"python", "torch", "cpu", "cores", "commit", "finished", "threads"} <= record.keys()
    assert list(gate.check_tree(source, tree)) == []
    assert (tree / "book" / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1e6
    assert (tree / "book" / "_static" / "player.js").exists()
    assert not list((tree / "book").glob("*.ipynb"))
    stamp = done.stat().st_mtime_ns
    heard.mkdir()
    (heard / "nobody.flac").touch()
    (tree / "records" / "00-gone").mkdir(parents=True)
    run(source, tree)
    assert done.stat().st_mtime_ns == stamp
    assert not list(heard.iterdir())
    assert not (tree / "records" / "00-gone").exists()
    assert "not run again" in capsys.readouterr().out
    edit(source / "book" / "01-small.ipynb", lambda n: n.cells[2].update(source="print(seed + 1)"))
    run(source, tree)
    assert nbformat.read(done, as_version=4).cells[-1].outputs[0].text == "4\n"
    stamp = done.stat().st_mtime_ns
    execute(source, tree, "smoke", {"corpus": "synthetic", "seed": 3}, jobs=1, fresh=True)
    assert done.stat().st_mtime_ns > stamp


@pytest.mark.notebook
@pytest.mark.parametrize(("cell", "message"), [
    ("x = 1\nassert x == 2, 'two'", r"the cell\n    x = 1\n    assert x == 2, 'two'\nraised\n.*AssertionError: two"),
    ("import os\nos._exit(1)", "Kernel died"),
    ("import time\ntime.sleep(600)", r"01-small: failed after .*time.sleep\(600\)\nwas stopped after 2 s"),
], ids=["raises", "dies", "hangs"])  # fmt: skip
def test_a_failing_cell_is_shown_and_leaves_no_record(source, tmp_path, monkeypatch, cell, message):
    if "sleep" in cell:  # however long a chapter takes, it may, as long as its cells end
        monkeypatch.setattr("tools.execute.HANGS", 2)
    edit(source / "book" / "01-small.ipynb", lambda n: n.cells[2].update(source=cell))
    with pytest.raises(Failed, match=f"(?s){message}"):
        run(source, tmp_path / "tree")
    assert [r.reason for r in gate.check_tree(source, tmp_path / "tree")] == ["never ran to its end"]


@pytest.mark.notebook
def test_a_slow_machine_gets_its_pages(source, tmp_path, monkeypatch, capsys):
    """Late is a warning; an error where STRICT=1 asks for one, after the pages, and once for one run."""
    monkeypatch.setattr("tools.execute.BUDGET", {"smoke": 0.01})
    monkeypatch.setattr(build, "render", lambda tree, out: (out / "_build" / "html").mkdir(exist_ok=True))
    command = ["--source", str(source), "--out", str(tmp_path), "--profile", "smoke", "--corpus", "synthetic"]
    monkeypatch.delenv("STRICT", raising=False)
    assert build.main([*command, "--fresh"]) == 0
    assert "late: 01-small: took" in capsys.readouterr().out
    monkeypatch.setenv("STRICT", "1")
    assert build.main(command) == 0  # the run that is late was not made by this call
    assert "late: 01-small: took" in capsys.readouterr().out
    assert build.main([*command, "--fresh"]) == 1
    assert (tmp_path / "_build" / "html").is_dir()
    assert "STRICT=1: late: 01-small: took" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "spin"), [
    ("", "1000"), ("os.environ['GOMP_SPINCOUNT'] = '7'", "7"), ("os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'", None),
    ("import torch", None),
])  # fmt: skip
def test_threads_spin_briefly_where_torch_is_not_loaded_yet(monkeypatch, before, spin):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    done = process("-c", f"import os; {before}\nimport sepriors; print(os.environ.get('GOMP_SPINCOUNT'))")
    assert done.stdout.strip() == str(spin), done.stderr


def test_an_unknown_parameter_is_an_error(source, tmp_path):
    check_parameters(source / "book" / "01-small.ipynb", {"profile", "device"})
    with pytest.raises(ValueError, match=r"expected parameters among .*'seed'\], got \['sede'\]"):
        run(source, tmp_path / "tree", sede=1)
    assert not (tmp_path / "tree").exists()


def test_the_kernel_sees_the_build_tree_and_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEPRIORS_DATA", "speech")
    monkeypatch.setenv("JUPYTER_PATH", "elsewhere")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    seen = environment(Job(tmp_path / "01.ipynb", tmp_path, "smoke", {}, threads=1))
    assert seen["SEPRIORS_BUILD"] == str(tmp_path)
    assert seen["SEPRIORS_DATA"] == str(tmp_path / "speech")
    assert seen["OMP_NUM_THREADS"] == "1"
    assert timed(os.environ).items() <= seen.items() | {"SEPRIORS_DATA": "speech", "JUPYTER_PATH": "elsewhere"}.items()
    assert "JUPYTER_PATH" not in seen


def test_a_run_depends_on_its_parameters_and_its_corpora(source, tmp_path, monkeypatch):
    job = Job(source / "book" / "01-small.ipynb", tmp_path, "smoke", {"seed": 0}, threads=1)
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    monkeypatch.setenv("SEPRIORS_DATA", str(corpora))
    keys = {key(job), key(Job(job.notebook, tmp_path, "smoke", {"seed": 1}, threads=1))}
    (corpora / "manifest.csv").write_text("path,corpus")
    keys |= {key(job)}
    (corpora / "manifest.csv").write_text("path,corpuS")
    assert len(keys | {key(job)}) == 4


def test_a_run_of_the_book_depends_on_the_records(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SEPRIORS_RECORDS", str(tmp_path / "records"))
    (tmp_path / "records" / "matched").mkdir(parents=True)
    jobs = [Job(source / "book" / "01-small.ipynb", tmp_path, name, {}, threads=1) for name in ("book", "smoke")]
    before = [key(job) for job in jobs]
    (tmp_path / "records" / "matched" / "nmf.csv").write_text("key,snr_db")
    book, smoke = (key(job) for job in jobs)
    assert book != before[0]
    assert smoke == before[1]


def test_commands_run_in_the_environment_that_timings_assume():
    program = "import os, sys; print(os.environ['OPENBLAS_NUM_THREADS'], sys.prefix)"
    done = process("-m", "tools", "python", "-c", program)
    assert done.stdout.strip().split(" ", 1) == ["1", sys.prefix], done.stderr


# ---- post-processing and badges -------------------------------------------------------------------------------------

RECORD = {
    "chapter": "01-small", "profile": "book", "seconds": 39.6, "peak_mb": 1234, "threads": 2, "cpu": "Z80 <4 MHz>",
}  # fmt: skip


@pytest.mark.parametrize("profile", ["book", "smoke"])
def test_publishing_leaves_no_trace_of_the_run_but_its_cost(source, tmp_path, profile):
    tree = tmp_path / "tree"
    for name in ("runs", "book"):
        (tree / name).mkdir(parents=True)
    executed = sound()
    executed.metadata |= {"widgets": {}, "papermill": {"output_path": str(tmp_path)}}
    for cell in executed.cells:
        cell.metadata["papermill"] = {"duration": 1}
    executed.cells[3].outputs[0].text = f"{tree}/book/a {ROOT}/b {sys.prefix}/c /usr/d\n"
    nbformat.write(executed, tree / "runs" / "01-small.ipynb")
    (tree / "runs" / "01-small.json").write_text(json.dumps(RECORD | {"profile": profile}))
    publish(source, tree)
    clean = nbformat.read(tree / "book" / "01-small.ipynb", as_version=4)
    nbformat.validate(clean)
    assert clean.metadata.keys() == {"kernelspec"}
    assert all("papermill" not in cell.metadata for cell in clean.cells)
    row = clean.cells[0].source
    assert "CPU 40 s · 1.2 GB" in row
    address = repository().replace("https://github.com", "https://colab.research.google.com/github")
    assert f'href="{address}/blob/main/book/01-small.ipynb"' in row
    assert "Z80 &lt;4 MHz&gt;" in row
    assert badges.PLACEHOLDER not in row
    assert gate.Resources(row).loaded == []
    if profile == "smoke":
        assert "Smoke run" in clean.cells.pop(1).source
    assert clean.cells[2].metadata.tags == ["injected-parameters", "remove-cell"]
    assert clean.cells[3].outputs[0].text == "_build/tree/book/a ./b .venv/c /usr/d\n"
    assert clean.cells[4].metadata.mystnb.image.alt == "a figure"
    assert len(clean.cells) == len(sound().cells)


def test_only_whole_paths_are_shortened_the_longest_first(tmp_path, monkeypatch):
    shortened = scrub(["/data/a", "x=/data", "/database", "/my/data", 1], {"/data": "$D"})
    assert shortened == ["$D/a", "x=$D", "/database", "/my/data", 1]
    monkeypatch.setenv("SEPRIORS_DATA", str(ROOT / "speech"))
    assert scrub(f"{ROOT}/speech/a", machine_paths(tmp_path)) == "$SEPRIORS_DATA/a"


MENDED = {
    '<script>const THEBE_JS_URL = "https://x"; const a = 1</script><script src="sphinx-thebe.js"></script><p>x</p>': (
        "<p>x</p>"
    ),
    '<span class="n">x</span><span class="w"> </span><span class="o">=</span><span class="mi">1</span>': (
        'x <span class="o">=</span><span class="mi">1</span>'  # the marks that colour nothing go, and no letter
    ),
}


def test_pages_are_mended(tmp_path):
    """The mends for readers of screens are seen in the book's own pages, by test_book."""
    css = tmp_path / "_static" / "vendor" / "fontawesome" / "6" / "css" / "all.min.css"
    for folder in (css.parent, css.parents[1] / "webfonts"):
        folder.mkdir(parents=True)
    (css.parents[1] / "webfonts" / "fa-solid-900.woff2").write_bytes(b"font")
    css.write_text("@font-face{src:url(../webfonts/fa-solid-900.woff2)}" * 2)
    options, page = tmp_path / "_static" / "documentation_options.js", tmp_path / "a.html"
    options.write_text("const DOCUMENTATION_OPTIONS = {SHOW_SEARCH_SUMMARY: true,};")
    page.write_text("\n".join(MENDED))
    mend(tmp_path)
    assert page.read_text().split("\n") == list(MENDED.values())
    assert css.read_text().count("url(data:font/woff2;base64,Zm9udA==)") == 1
    assert options.read_text().endswith('{SHOW_SEARCH_SUMMARY: location.protocol !== "file:",};')


# ---- generated pages ------------------------------------------------------------------------------------------------

CLAIM = {"id": "1a", "source": "shi2021", "statement": "It helps.", "published": "0.1", "chapter": "01-small"}
EVIDENCE = {"label": "at 0 dB", "value": -1.2345, "low": -2, "high": -0.5, "n": 24}
FAILS = {"id": "1a", "verdict": "fails", "evidence": [EVIDENCE], "predicate": "above 0", "unit": "dB", "reason": "No"}


def record(*verdicts, profile="book"):
    return {"01-small": {"profile": profile, "corpus": "auto", "files": {"speech": 24}, "verdicts": list(verdicts)}}


def test_a_failing_claim_is_shown_with_value_and_reason_and_many_measurements_are_folded():
    page = ledger.page(ledger.judge([CLAIM], record(FAILS), ["01-small"]))
    for text in ("  - - at 0 dB: −1.23 dB [−2, −0.5], n = 24\n", "*No*", ">holds</span> 0", "{cite:t}`shi2021`"):
        assert text in page
    assert page.count(">fails</span>") == 2  # in the counts and in the row
    assert "(/book/01-small.ipynb)" in page
    many = record(FAILS | {"evidence": [EVIDENCE] * (ledger.MANY + 1)})
    assert "<details><summary>6 measurements</summary>" in ledger.page(ledger.judge([CLAIM], many, ["01-small"]))


@pytest.mark.parametrize(("records", "reason"), [
    ({}, "left no record"), (record(), "left no record"), (record(FAILS, profile="smoke"), "smoke run"),
])  # fmt: skip
def test_without_evidence_a_claim_is_not_judged(records, reason):
    (claim,) = ledger.judge([CLAIM], records, ["01-small"])
    assert claim["verdict"] == "not judged"
    assert reason in claim["reason"]
    assert claim["evidence"] == []


@pytest.mark.parametrize(("claims", "records", "message"), [
    ([CLAIM], record(FAILS | {"id": "9z"}), "'9z'"), ([CLAIM], record(FAILS | {"verdict": "maybe"}), "maybe"),
    ([CLAIM | {"chapter": "02"}], {}, "expected a chapter among"),
    ([CLAIM], {"02": record(FAILS)["01-small"]}, "the claim's own chapter"),
])  # fmt: skip
def test_a_ledger_that_does_not_add_up_is_an_error(claims, records, message):
    with pytest.raises(ValueError, match=message):
        ledger.judge(claims, records, ["01-small"])


def test_the_run_page_tells_cost_corpus_and_records(tmp_path):
    folder = tmp_path / "records" / "01-small"
    folder.mkdir(parents=True)
    (folder / "bench-white.json").write_text("{}")
    facts = {"cores": 2, "memory_gb": 25.3, "python": "3.11", "commit": "abc-dirty", "seed": 0}
    page = pages.run.page([RECORD | facts | {"finished": "2026-01-02T03:04:05+00:00"}], record(), tmp_path)
    assert "| 39.6 s | 1.23 GB | 2 | 0 | 2026-01-02 03:04 |" in page
    assert "files: speech 24" in page
    assert "{download}`bench-white.json </records/01-small/bench-white.json>`" in page
    assert f'<a href="{repository()}/commit/abc">abc</a> with uncommitted changes' in page
    assert "Z80 &lt;4 MHz&gt;" in page
    assert "| torch |" in page


def test_generated_pages_are_written(source, tmp_path):
    (tmp_path / "book").mkdir()
    pages.write_pages(source, tmp_path)
    assert "It helps." in (tmp_path / "book" / "ledger.md").read_text()
    assert "No chapter labels an equation." in (tmp_path / "book" / "equations.md").read_text()
    assert "No chapter was run." in (tmp_path / "book" / "run.md").read_text()
    assert "0 faults" in (tmp_path / "book" / "faults.md").read_text()


MARKED = """
import pytest

OUTCOME = "Refused"

@pytest.mark.fault("It is *cut*", OUTCOME)
@pytest.mark.parametrize("x", [1])
def test_a_cut_file(x): ...

@pytest.mark.parametrize("x", [1])
def test_nothing(x): ...

@pytest.mark.fault("It is gone", "Told")
def helper(): ...
"""


def test_faults_are_read_from_the_marks_of_tests(tmp_path):
    (tmp_path / "test_a.py").write_text(MARKED)
    (tmp_path / "helper.py").write_text(MARKED)
    (fault,) = faults.read(tmp_path)
    assert fault == ("It is *cut*", "Refused", "test_a.py", "test_a_cut_file", 8)
    page = faults.page([fault], "https://example.org/r")
    assert "1 faults" in page
    row = "* - It is *cut*\n  - Refused\n  - [a cut file](https://example.org/r/blob/main/tests/test_a.py#L8)\n"
    assert row in page
    (tmp_path / "test_b.py").write_text(MARKED.replace("a_cut_file", "b"))
    with pytest.raises(ValueError, match=r"test_b\.py: expected a fault of its own on test_b, got that of test_a_cut"):
        faults.read(tmp_path)
    for mark in ('"alone"', '"one", UNKNOWN', '"one", done="two"'):
        (tmp_path / "test_b.py").write_text(f"@pytest.mark.fault({mark})\ndef test_b(): ...\n")
        with pytest.raises(ValueError, match=r"test_b\.py, line 1: expected what is done and what comes out as"):
            faults.read(tmp_path)


def test_every_mark_is_on_the_page():
    """As many as stand in the files of the tests, wherever in them."""
    written = sum(path.read_text().count("\n@" + faults.MARK + "(") for path in (ROOT / "tests").glob("*.py"))
    inside = MARKED.count("\n@" + faults.MARK + "(")  # above, in a text
    assert len(faults.read(ROOT / "tests")) == written - inside > 40


# ---- setting up -----------------------------------------------------------------------------------------------------


def test_a_complete_environment_is_left_alone(tmp_path, monkeypatch):
    venv, constraints = tmp_path / "venv", ROOT / "constraints.txt"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    (venv / ".sepriors-stamp").write_text(setup_env.fingerprint(constraints))

    def forbidden(*args, **kwargs):
        raise AssertionError(f"expected nothing to be run, got {args}")

    monkeypatch.setattr(subprocess, "run", forbidden)
    setup_env.make_environment(venv, constraints)
    with pytest.raises(AssertionError):  # another set of versions is another environment
        setup_env.make_environment(venv, None)
    assert not (venv / ".sepriors-stamp").exists()


def test_a_failed_installation_names_the_missing_compiler_and_resumes(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="`make env` resumes from here"):
        setup_env.run([sys.executable, "-c", "raise SystemExit(1)"], "installing")
    assert "no C compiler" in capsys.readouterr().out
