"""The listening panel in a real browser: from a file and a server, light and dark, narrow, by keyboard, offline."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pydata_sphinx_theme
import pytest
import torch
from browser import faults, launch
from playwright.sync_api import expect
from scipy.stats import binomtest
from serving import running

from sepriors.lab import players
from sepriors.lab.players import abx, player
from tools.serve import make_server

pytestmark = pytest.mark.browser

RATE = 16000
STATIC = Path(players.__file__).parent / "static"
THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static" / "styles"
PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>x</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="../_static/pydata-sphinx-theme.css">
<link rel="stylesheet" href="../_static/player.css"><script src="../_static/player.js"></script></head>
<body><main class="bd-content"><div class="cell"><div class="cell_output"><div class="output text_html">
{panels}
</div></div></div></main></body></html>"""

# What the browser says of a panel's audio: indices of the audible versions, every playhead and volume.
STATE = """panel => {
  const audio = Array.from(panel.querySelectorAll('audio'));
  return {audible: audio.flatMap((a, i) => a.volume > 1e-6 ? [i] : []), times: audio.map(a => a.currentTime),
          paused: audio.map(a => a.paused), volume: audio.map(a => a.volume), now: performance.now() / 1000};
}"""


def chirp(seconds=4.0, low=200.0, high=2000.0, peak=0.3):
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return peak * torch.sin(2 * torch.pi * (low * t + (high - low) * t**2 / (2 * seconds)))


def versions(seconds=4.0):
    noise = 0.05 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = chirp(seconds)
    return {"noisy": clean + noise, "clean": clean, "IS-NMF": clean + 0.3 * noise}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A function that writes a page of panels as the book would, and returns its path."""
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    root = tmp_path / "html"

    def write(*panels, theme="light"):
        shutil.copytree(tmp_path / "book" / "_static", root / "_static", dirs_exist_ok=True)
        for source in (STATIC / "player.css", STATIC / "player.js", THEME / "pydata-sphinx-theme.css"):
            shutil.copy(source, root / "_static")
        (root / "book").mkdir(exist_ok=True)
        text = PAGE.format(theme=theme, panels="\n".join(panel._repr_html_() for panel in panels))
        (root / "book" / "x.html").write_text(text, encoding="utf-8")
        return root / "book" / "x.html"

    return write


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_chromium_is_skipped_by_hand_and_fails_in_ci(monkeypatch, ci, outcome):
    monkeypatch.delenv("SEPRIORS_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no Chromium"):
        launch(SimpleNamespace(chromium=SimpleNamespace(executable_path="/nonexistent/chromium")))


DURATION = "b => getComputedStyle(b).transitionDuration"


def state(panel):
    return panel.evaluate(STATE)


def playhead(panel):
    now = state(panel)
    return now["times"][now["audible"][0]]


def until(panel, condition):
    """Wait until a JavaScript condition on the panel's audible element `a` holds."""
    audible = "Array.from(panel.querySelectorAll('audio')).find(x => x.volume > 1e-6)"
    panel.page.wait_for_function(
        f"panel => {{ const a = {audible}; return {condition}; }}", arg=panel.element_handle(), timeout=10_000
    )


def first(page):
    return page.locator(".sp-player").nth(0)


def in_step(panel):
    """Wait until all versions run within 10 ms: at once on an idle machine, in half a second on a busy one."""
    panel.page.wait_for_function(
        """panel => {
          const times = Array.from(panel.querySelectorAll('audio')).map(a => a.currentTime);
          return Math.max(...times) - Math.min(...times) < 0.01;
        }""",
        arg=panel.element_handle(),
        timeout=15_000,
    )


@pytest.mark.parametrize("over_http", [False, True], ids=["file", "http"])
def test_plays_switches_and_seeks(site, open_page, over_http):
    path = site(player(versions(), title="Three"))
    server = make_server(path.parents[1])
    with running(server):
        address = f"http://127.0.0.1:{server.server_port}/book/x.html"
        play_switch_and_seek(first(open_page(address if over_http else path)))


def play_switch_and_seek(panel):
    panel.get_by_role("button", name="Play").click()
    until(panel, "a.currentTime > 0.3")
    expect(panel.get_by_role("button", name="Pause")).to_be_visible()
    for index in (1, 2, 0):
        in_step(panel)
        jump = panel.evaluate(
            """(panel, index) => {
              const audible = () => Array.from(panel.querySelectorAll('audio')).find(a => a.volume > 1e-6);
              const before = audible().currentTime;
              panel.querySelectorAll('[role=radio]')[index].click();
              return audible().currentTime - before;
            }""",
            index,
        )
        assert abs(jump) < 0.03
        begin = state(panel)
        assert begin["audible"] == [index]
        panel.page.wait_for_timeout(300)
        end = state(panel)
        gone = end["times"][index] - begin["times"][index]
        assert gone == pytest.approx(end["now"] - begin["now"], abs=0.15)  # it went on without a stall
        assert max(end["times"]) - min(end["times"]) < 0.03  # and the others in step with it
    panel.get_by_label("Position").fill("3")
    until(panel, "a.currentTime >= 3 && a.currentTime < 3.9")
    until(panel, "a.paused")  # the end
    expect(panel.get_by_role("button", name="Play")).to_be_visible()
    expect(panel.get_by_label("Position")).to_have_attribute("aria-valuetext", "4.0 of 4.0 seconds")
    panel.get_by_role("button", name="Play").click()  # begins again
    until(panel, "!a.paused && a.currentTime > 0.05 && a.currentTime < 2")


@pytest.fixture
def three(site, open_page):
    """A panel of three versions, in its page."""
    return first(open_page(site(player(versions(), title="Three"))))


def test_switching_while_paused_keeps_the_playhead_and_one_gain_for_all_never_above_one(three):
    three.get_by_label("Position").fill("1.5")
    three.get_by_role("radio", name="IS-NMF").click()
    assert state(three)["times"] == [1.5, 1.5, 1.5]
    assert all(state(three)["paused"])
    three.get_by_role("button", name="Play").click()
    until(three, "a.currentTime > 1.6 && a.currentTime < 3")
    three.get_by_role("button", name="Pause").click()
    assert all(state(three)["paused"])
    assert state(three)["volume"] == [1e-6, 1e-6, 1]  # the others are 120 dB down
    gain = three.get_by_label("Gain of all versions")
    gain.fill("-20")
    for index in range(3):
        three.get_by_role("radio").nth(index).click()
        assert state(three)["volume"] == pytest.approx([0.1 if i == index else 1e-6 for i in range(3)])
    expect(gain).to_have_attribute("aria-valuetext", "−20 dB")
    assert gain.get_attribute("max") == "0"  # dB


def test_loop_begins_again_and_the_end_stops(site, open_page):
    panel = first(open_page(site(player(versions(0.6), title="Short"))))
    loop = panel.get_by_role("button", name="Loop")
    loop.click()
    expect(loop).to_have_attribute("aria-pressed", "true")
    panel.evaluate("p => { p.ends = 0; p.querySelector('audio').addEventListener('ended', () => p.ends++); }")
    panel.get_by_role("button", name="Play").click()
    panel.page.wait_for_function("p => p.ends >= 2", arg=panel.element_handle(), timeout=10_000)
    loop.click()
    expect(panel.get_by_role("button", name="Play")).to_be_visible(timeout=10_000)
    assert all(state(panel)["paused"])


def test_keyboard(three):
    panel, press, radios = three, three.page.keyboard.press, three.get_by_role("radio")
    press("2")
    press("Space")  # outside the panel they do nothing
    assert state(panel)["audible"] == [0]
    assert all(state(panel)["paused"])
    press("Tab")
    expect(panel.get_by_role("button", name="Play")).to_be_focused()
    assert panel.locator(".sp-toggle").evaluate("b => getComputedStyle(b).outlineStyle") == "solid"
    press("Space")
    until(panel, "!a.paused && a.currentTime > 0")
    press("2")
    assert state(panel)["audible"] == [1]
    press("9")  # there is no ninth version
    assert state(panel)["audible"] == [1]
    press("ArrowRight")
    assert state(panel)["audible"] == [2]
    press("ArrowRight")  # round to the first
    assert state(panel)["audible"] == [0]
    press("Space")
    assert all(state(panel)["paused"])
    here = playhead(panel)
    for key, seconds in (("]", 1), ("Shift+ArrowRight", 2), ("[", 1), ("Shift+ArrowLeft", 0), ("[", -here)):
        press(key)
        assert playhead(panel) == pytest.approx(here + seconds, abs=0.02)

    press("Tab")
    expect(panel.get_by_label("Position")).to_be_focused()
    press("ArrowRight")  # on the seek bar an arrow seeks
    assert playhead(panel) == pytest.approx(1, abs=0.02)
    press("3")
    assert state(panel)["audible"] == [2]

    press("Tab")  # one stop for all versions: the chosen one
    expect(radios.nth(2)).to_be_focused()
    press("ArrowLeft")
    expect(radios.nth(1)).to_be_focused()
    expect(radios.nth(1)).to_have_attribute("aria-checked", "true")
    press("Space")
    until(panel, "!a.paused")
    press("Tab")
    press("Space")  # Loop keeps its own space bar
    expect(panel.get_by_role("button", name="Loop")).to_have_attribute("aria-pressed", "true")
    assert not all(state(panel)["paused"])
    press("Tab")
    press("ArrowLeft")  # and the gain its own arrows
    assert state(panel)["volume"] == pytest.approx([1e-6, 10 ** (-1 / 20), 1e-6])
    press("Tab")
    assert not panel.evaluate("p => p.contains(document.activeElement)")
    panel.locator(".sp-title").click()  # a click anywhere in it gives it the keyboard
    press("3")
    assert state(panel)["audible"] == [2]


def test_aria(site, open_page):
    page = open_page(site(player(versions(), title='A "title" & more')), reduced_motion="no-preference")
    panel = first(page)
    assert "0.12s" in panel.locator(".sp-loop").evaluate(DURATION)  # it moves where that is not unwanted
    expect(panel).to_have_role("group")
    expect(panel).to_have_accessible_name('A "title" & more')
    radios = panel.get_by_role("radiogroup", name="Version").get_by_role("radio")
    expect(radios).to_have_count(3)
    bar = panel.get_by_role("slider", name="Position")
    expect(bar).to_have_attribute("aria-valuetext", "0.0 of 4.0 seconds")
    bar.fill("1.2")
    expect(bar).to_have_attribute("aria-valuetext", "1.2 of 4.0 seconds")
    expect(panel.get_by_role("slider", name="Gain of all versions")).to_have_attribute("aria-valuetext", "0 dB")
    told, chosen, other = "all => all.map(r => [r.ariaChecked, r.tabIndex])", ["true", 0], ["false", -1]
    assert radios.evaluate_all(told) == [chosen, other, other]
    live = panel.get_by_role("status")
    expect(live).to_have_text("")
    radios.nth(1).click()
    expect(live).to_have_text("Version: clean")
    assert radios.evaluate_all(told) == [other, chosen, other]


def test_where_the_volume_cannot_be_set_the_others_are_muted(site, open_page):
    """As on iOS: writing `volume` has no effect."""
    root = site(player(versions(), title="Three"))
    script = root.parents[1] / "_static" / "player.js"
    frozen = "Object.defineProperty(HTMLMediaElement.prototype, 'volume', {get: () => 1, set: () => {}});"
    script.write_text(frozen + script.read_text(encoding="utf-8"), encoding="utf-8")
    panel = first(open_page(root))
    panel.get_by_role("button", name="Play").click()
    panel.get_by_role("radio").nth(1).click()
    muted = panel.evaluate("p => Array.from(p.querySelectorAll('audio')).map(a => a.muted)")
    assert muted == [True, False, True]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_panels_have_no_fault_for_those_who_see_little_or_use_no_mouse(site, open_page, theme, script):
    loud = {name: 4 * x for name, x in versions(1.0).items()}
    words = {"title": "Title", "caption": "Caption"}
    path = site(player(loud, **words), abx(loud["noisy"], loud["clean"], trials=1, **words), theme=theme)
    if not script:
        (path.parents[1] / "_static" / "player.js").write_text("")  # axe-core itself needs JavaScript
    page = open_page(path, reduced_motion="reduce")
    if script:
        assert "0.12s" not in first(page).locator(".sp-loop").evaluate(DURATION)
        first(page).get_by_role("button", name="Loop").click()
        first(page).locator(".sp-alert").evaluate("p => { p.textContent = 'Audio could not be loaded: x.'; }")
        assert faults(page, only="main") == []
        page.get_by_role("button", name="X is A").click()
        expect(page.locator(".sp-result")).to_contain_text("of 1 right")
    assert faults(page, only="main") == []
    # The theme puts other HTML outputs into a light box when it is dark.
    assert first(page).evaluate("p => getComputedStyle(p.closest('.text_html')).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_a_phone_needs_no_sideways_scroll(site, open_page, script):
    name = "a very long name of a method, with_an_unbreakable_identifier_in_it_of_50_letters"
    signals = versions(1.0) | {name: chirp(1)}
    words = {"title": "A title that is longer than a phone is wide, " * 3, "caption": "And a caption. " * 20}
    root = site(player(signals, **words), abx(chirp(1), -chirp(1), **words))
    page = open_page(root, viewport={"width": 390, "height": 844}, has_touch=True, java_script_enabled=script)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    inside = first(page).evaluate(
        """panel => Array.from(panel.querySelectorAll('*')).filter(node => {
          const box = node.getBoundingClientRect();
          return box.width && !node.matches('.sp-hidden') && box.right > panel.getBoundingClientRect().right + 0.5;
        }).map(node => node.className)"""
    )
    assert inside == []
    if not script:  # the browser's own players
        expect(page.locator("audio[controls]")).to_have_count(4 + 2)
        assert all(audio.is_visible() for audio in page.locator("audio[controls]").all())
        told = "Without JavaScript the two can be heard side by side; the blind trials need it."
        expect(page.locator(".sp-noscript")).to_have_text(told)


def test_a_missing_file_is_said_and_skipped(site, open_page, tmp_path):
    panel = player(versions(), title="Three")
    root = site(panel)
    (root.parent / panel.versions[0].src).unlink()
    view = first(open_page(root, lacks=True))
    expect(view.get_by_role("alert")).to_have_text("Audio could not be loaded: noisy.")
    expect(view.get_by_role("radio", name="noisy")).to_be_disabled()
    assert state(view)["audible"] == [1]
    view.get_by_role("button", name="Play").click()
    until(view, "a.currentTime > 0.1")
    view.page.keyboard.press("1")  # cannot be chosen
    assert state(view)["audible"] == [1]
    view.page.keyboard.press("ArrowLeft")  # steps over it
    assert state(view)["audible"] == [2]


def test_all_files_missing(site, open_page):
    root = site(player(versions(), title="Three"))
    shutil.rmtree(root.parents[1] / "_static" / "audio")
    view = first(open_page(root, lacks=True))
    expect(view.get_by_role("alert")).to_have_text("Audio could not be loaded: noisy, clean, IS-NMF.")
    expect(view.get_by_role("button", name="Play")).to_be_disabled()
    view.locator(".sp-title").click()
    view.page.keyboard.press("Space")
    assert all(state(view)["paused"])


def test_a_blind_test_of_a_missing_file_takes_no_answer(site, open_page):
    panel = blind()
    root = site(panel)
    (root.parent / panel.versions[1].src).unlink()
    view = first(open_page(root, lacks=True))
    expect(view.get_by_role("alert")).to_contain_text("Audio could not be loaded: ")
    expect(view.get_by_role("button", name="X is A")).to_have_count(0)
    view.locator(".sp-title").click()
    view.page.keyboard.press("Shift+A")
    expect(view.locator(".sp-trial")).to_have_text("Trial 1 of 10")


def test_a_refusal_to_play_is_said(three):
    refusal = "Promise.reject(new DOMException('no gesture', 'NotAllowedError'))"
    three.page.evaluate(f"() => {{ HTMLMediaElement.prototype.play = () => {refusal}; }}")
    three.get_by_role("button", name="Play").click()
    expect(three.get_by_role("alert")).to_have_text("The browser did not allow this page to play audio.")
    expect(three.get_by_role("button", name="Play")).to_be_visible()


def test_embedded_in_an_empty_folder(tmp_path, monkeypatch, open_page):
    monkeypatch.delenv("SEPRIORS_BUILD", raising=False)
    html = "".join(panel._repr_html_() for panel in (player(versions(), title="One"), blind(trials=1)))
    (tmp_path / "x.html").write_text(f"<!doctype html><meta charset='utf-8'><title>x</title>{html}", encoding="utf-8")
    page = open_page(tmp_path / "x.html")
    expect(page.get_by_role("radiogroup")).to_have_count(2)
    first(page).get_by_role("button", name="Play").click()
    until(first(page), "a.currentTime > 0.2")
    page.keyboard.press("3")
    assert state(first(page))["audible"] == [2]
    panel = page.locator(".sp-abx")
    panel.get_by_role("radio", name="X").click()
    panel.get_by_role("button", name="Play").click()
    until(panel, "a.currentTime > 0.1")
    answer(panel, True)
    expect(panel.locator(".sp-result")).to_contain_text("1 of 1 right.")
    expect(panel.locator(".sp-result data")).to_have_text("0.5")


def test_embedded_in_a_notebook(tmp_path, monkeypatch, open_page):
    """Jupyter sets the HTML, runs its scripts anew, and may attach the output to the page only afterwards."""
    monkeypatch.delenv("SEPRIORS_BUILD", raising=False)
    (tmp_path / "x.html").write_text("<!doctype html><meta charset='utf-8'><title>x</title><body>", encoding="utf-8")
    page = open_page(tmp_path / "x.html")
    for count, title in enumerate(("One", "Two"), start=1):
        page.evaluate(
            """html => {
              const output = document.createElement('div');
              output.innerHTML = html;
              const script = document.createElement('script');
              script.textContent = output.querySelector('script').textContent;
              document.body.append(script);
              setTimeout(() => document.body.append(output), 50);
            }""",
            player(versions(), title=title)._repr_html_(),
        )
        expect(page.get_by_role("radiogroup")).to_have_count(count)
    one, two = first(page), page.locator(".sp-player").nth(1)
    for panel in (one, two):
        panel.get_by_role("button", name="Play").click()
        until(panel, "!a.paused && a.currentTime > 0.1")
    assert all(state(one)["paused"])  # only one panel plays
    expect(one.get_by_role("button", name="Play")).to_be_visible()
    # The cell is run again: the panel goes, and its sound with it.
    paused = page.evaluate_handle("Array.from(document.querySelectorAll('.sp-player')[1].querySelectorAll('audio'))")
    page.evaluate("document.querySelectorAll('.sp-player')[1].remove()")
    page.wait_for_function("all => all.every(a => a.paused)", arg=paused, timeout=10_000)


# ---- the blind panel ------------------------------------------------------------------------------------------------

# Which of A and B the panel plays as X: the listener does not see it, the page's own source must.
HIDDEN = """panel => {
  const [a, b, x] = Array.from(panel.querySelectorAll('audio'), audio => audio.src);
  return [a, b].indexOf(x);
}"""


def blind(seconds=2.0, **options):
    pair = list(versions(seconds).values())[:2]
    return abx(*pair, names=("noisy", "clean"), title="Blind", **options)


def answer(panel, right):
    """Answer the present trial by keyboard, rightly or wrongly."""
    is_b = bool(panel.evaluate(HIDDEN)) == right
    panel.page.keyboard.press("Shift+B" if is_b else "Shift+A")


def test_a_blind_test_by_keyboard(site, open_page):
    page = open_page(site(blind(trials=4)))
    panel, press = first(page), page.keyboard.press
    status, result = panel.get_by_role("status"), panel.locator(".sp-result")
    expect(panel.locator(".sp-noscript")).to_have_count(0)
    expect(panel.locator(".sp-keys")).to_contain_text("A B X or 1–3 switch, Shift + A or Shift + B answers")
    press("Tab")
    press("Space")
    until(panel, "!a.paused && a.currentTime > 0.1")
    for key, index in (("b", 1), ("x", 2), ("a", 0), ("3", 2), ("1", 0)):
        press(key)
        assert state(panel)["audible"] == [index]
    expect(panel.locator(".sp-trial")).to_have_text("Trial 1 of 4")
    answer(panel, True)
    expect(status).to_have_text("Noted. Trial 2 of 4")  # and not whether it was right
    assert all(state(panel)["paused"])
    press("x")
    press("Space")
    until(panel, "!a.paused && a.currentTime > 0.1")  # X of the new trial
    assert state(panel)["audible"] == [2]
    for right in (False, True, True):
        expect(result).to_have_text("")
        answer(panel, right)
    expect(result).to_have_text(
        "3 of 4 right. Guessing does as well or better with probability p = 0.31 (binomial, one-sided, exact)."
    )
    expect(status).to_have_text(result.inner_text())
    press("Shift+A")  # it is over
    expect(result).to_contain_text("3 of 4")
    stored = "[Object.keys(localStorage).sort().join(), sessionStorage.length, document.cookie]"
    assert page.evaluate(stored) == ["mode,theme", 0, ""]  # the theme is the test's


def test_a_blind_test_by_its_buttons(site, open_page):
    page = open_page(site(blind(trials=2)))
    panel = first(page)
    answers = panel.get_by_role("group", name="Answer").get_by_role("button")
    expect(answers).to_have_text(["X is A", "X is B"])
    for _ in range(2):
        answers.nth(panel.evaluate(HIDDEN)).focus()
        page.keyboard.press("Space")  # a button keeps its own space bar
    expect(panel.locator(".sp-result")).to_contain_text("2 of 2 right.")
    again = panel.get_by_role("button", name="Begin again")
    expect(again).to_be_focused()  # the answers are gone, the keyboard is not
    again.click()
    expect(panel.get_by_role("status")).to_have_text("Trial 1 of 2")
    expect(panel.locator(".sp-result")).to_have_text("")
    expect(panel.get_by_role("button", name="X is A")).to_be_focused()


def test_x_is_drawn_evenly_and_plays_in_step_and_p_is_that_of_the_exact_binomial(site, open_page):
    panel = first(open_page(site(blind(trials=100))))
    draws = panel.evaluate(
        """panel => Array.from({length: 400}, (_, i) => {
          panel.querySelector(i % 100 === 99 ? '.sp-again' : '.sp-answer').click();
          const [a, b, x] = panel.querySelectorAll('audio');
          return x.src === b.src;
        })"""
    )
    assert 140 < sum(draws) < 260  # six standard deviations
    panel.get_by_role("button", name="Play").click()
    until(panel, "!a.paused && a.currentTime > 0.2")
    in_step(panel)
    play = """(panel, right) => {
      const [a, b, x] = panel.querySelectorAll('audio');
      const answers = panel.querySelectorAll('.sp-answer');
      for (let i = 0; i < 100; i++) answers[(x.src === b.src) ^ (i >= right)].click();
    }"""
    for right in (0, 50, 80, 100):
        panel.evaluate(play, right)
        expected = binomtest(right, 100, alternative="greater").pvalue
        shown = panel.locator(".sp-result data")
        assert float(shown.get_attribute("value")) == pytest.approx(expected, rel=1e-9)
        assert float(shown.inner_text()) == pytest.approx(expected, rel=0.05)
        panel.get_by_role("button", name="Begin again").click()
