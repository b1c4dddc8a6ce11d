"""The map from equations to code is true, and what is wrong with a false one is said."""

import re

import nbformat
import pytest

from tools import ROOT, chapters
from tools.pages import equations
from tools.pages.text import source_address

ONE = "```{math}\n:label: eq-one\nx = y\n```"
TRUE = {
    "code": ["sepriors.signal.gaussian.wiener"],
    "test": ["tests/test_gaussian.py::test_wiener_is_the_posterior_mean"],
}


@pytest.fixture
def book(tmp_path):
    """Makes the sources of a book of one chapter, from its cells and the entries of its map."""

    def make(*cells, **known):
        (tmp_path / "book").mkdir()
        (tmp_path / "_toc.yml").write_text("root: book/intro\nchapters:\n- file: book/01-small\n")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(cell) for cell in cells])
        nbformat.write(notebook, tmp_path / "book" / "01-small.ipynb")
        lines = [f"[{label}]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items()) for label, entry in known.items()]
        (tmp_path / equations.MAP).write_text("\n".join(lines))
        return tmp_path

    return make


def test_every_equation_of_the_book_has_its_code_and_its_test():
    found = equations.complaints()
    assert not found, "\n\n".join(found)


def test_every_equation_that_is_referred_to_is_seen():
    """Else one written in another way would need no line of the map."""
    text = "\n".join(cell for path in chapters() for cell in equations.cells_of(path, "markdown"))
    assert set(re.findall(r"\{eq\}`([^`]+)`", text)) <= {equation.label for equation in equations.labelled()}
    assert len(equations.labelled()) == len(re.findall(r":label: eq-", text))


def test_a_true_map_has_no_complaint(book):
    assert equations.complaints(book(ONE, **{"eq-one": TRUE})) == []


def test_an_equation_that_is_not_listed_is_told_what_to_add(book):
    source = book("# Title", f"Text.\n\n{ONE}\n\nMore.")
    (complaint,) = equations.complaints(source)
    assert complaint.startswith("eq-one: 01-small labels eq-one")
    assert '[eq-one]\ncode = ["sepriors.MODULE.FUNCTION"]\ntest = ["tests/test_MODULE.py::test_NAME"]' in complaint
    with pytest.raises(ValueError, match="01-small labels eq-one"):
        equations.page(source)


def test_what_no_chapter_labels_is_not_listed(book):
    (complaint,) = equations.complaints(book("# Title", **{"eq-one": TRUE}))
    assert "no chapter labels it" in complaint


def test_a_label_stands_once(book):
    assert equations.complaints(book(ONE, ONE, **{"eq-one": TRUE})) == ["eq-one: labelled twice"]


CHAPTER = "book/04-maf-2d.ipynb"


@pytest.mark.parametrize(("wrong", "message"), [
    ({"code": ["sepriors.signal.gaussian.winner"]}, "sepriors.signal.gaussian.winner: expected a function"),
    ({"code": ["sepriors.signal.gaussian"]}, "sepriors.signal.gaussian: expected a function"),
    ({"code": ["sepriors.inference.nmf.update"]}, "none of its tests mentions sepriors.inference.nmf.update"),
    ({"code": [f"{CHAPTER}::nothing"]}, "expected a chapter that defines nothing"),
    ({"code": ["book/00-none.ipynb::play"]}, "there is no file book/00-none.ipynb"),
    ({"test": ["tests/test_gaussian.py::test_of_nothing"]}, "has no function test_of_nothing"),
    ({"test": ["tests/test_gaussian.py::draw"]}, "expected tests/test_MODULE.py::test_NAME"),
    ({"test": [f"{CHAPTER}::rosenblatt"]}, "expected a chapter that asserts something of rosenblatt"),
    ({"test": []}, "expected code = [...] and test = [...]"),
])  # fmt: skip
def test_a_false_entry_is_named(book, wrong, message):
    (complaint,) = equations.complaints(book(ONE, **{"eq-one": TRUE | wrong}))
    assert complaint.startswith("eq-one: ")
    assert message in complaint


def test_a_chapter_may_compute_and_assert_by_itself():
    assert equations.find_test(f"{CHAPTER}::by_hand").path == ROOT / CHAPTER


def test_the_page_shows_formula_code_and_test(book):
    page = equations.page(book("# Small\n\nText.", ONE, **{"eq-one": TRUE}))
    place = equations.find(TRUE["code"][0])
    assert place.path.read_text().splitlines()[place.first - 1].startswith("def wiener(")
    assert page.index("## Small") < page.index("**Equation** {eq}`eq-one`") < page.index("```{math}\nx = y\n```")
    assert f"computed by [`gaussian.wiener`]({source_address(place.path, place.first, place.last)})" in page
    assert "/tests/test_gaussian.py#L" in page


def test_a_method_is_found_in_its_class():
    place = equations.find("sepriors.priors.vae.VAE.elbo")
    assert (place.name, place.path.name) == ("vae.VAE.elbo", "vae.py")
