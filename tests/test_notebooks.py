"""Every chapter runs from top to bottom in the profile `smoke`."""

import json
import os
from pathlib import Path

import pytest

from tools import ROOT, chapters, gate
from tools.execute import execute

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """The tree of the smoke book that `make test` has built, else one made here."""
    if html := os.environ.get("SEPRIORS_BOOK_HTML"):
        return Path(html).parent / "tree"
    made = tmp_path_factory.mktemp("smoke")
    execute(ROOT, made, "smoke", {"corpus": "synthetic", "seed": 0})
    return made


def test_every_notebook_is_a_chapter():
    assert {path.name for path in chapters()} == {path.name for path in (ROOT / "book").glob("*.ipynb")}


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_the_chapter_ran_and_the_gate_lets_it_through(tree, path):
    record = json.loads((tree / "runs" / f"{path.stem}.json").read_text())
    assert record["profile"] == "smoke"
    executed = json.loads((tree / "runs" / f"{path.stem}.ipynb").read_text())
    assert [str(refusal) for refusal in gate.check_notebook(executed, path.stem)] == []


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_smoke_run_judges_no_claim(tree, path):
    claims = tree / "records" / path.stem / "claims.json"
    verdicts = json.loads(claims.read_text())["verdicts"] if claims.exists() else []
    assert {verdict["verdict"] for verdict in verdicts} <= {"not judged"}
