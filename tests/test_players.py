"""Listening panels: what is heard is what was given, and the figures beside it are right."""

import base64
import hashlib
import http.client
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import freqz
from serving import running

from sepriors.lab.players import abx, loudness, player
from sepriors.signal.audio import AudioError
from tools import ROOT
from tools.serve import make_server

RATE = 16000
SERVE = ROOT / "tools" / "serve.py"


def noise(seconds=1.0, peak=0.5, seed=0):
    x = torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return peak * x / x.abs().max()


def tone(level, seconds=2.0, frequency=997.0, rate=RATE):
    """A sine whose peak is `level` dBFS."""
    n = torch.arange(round(seconds * rate), dtype=torch.float64)
    return 10 ** (level / 20) * torch.sin(2 * math.pi * frequency / rate * n)


def decoded(version):
    """The samples (N,) that a browser would play."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(version.src.removeprefix("data:audio/flac;base64,"))))
    assert rate == RATE
    return torch.from_numpy(samples)


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPRIORS_BUILD", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def _no_build(monkeypatch):
    monkeypatch.delenv("SEPRIORS_BUILD", raising=False)


# ---- the audio ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [1.0, 0.5, 3e-4])
def test_audio_is_the_signal_to_half_a_bit(peak):
    x = noise(peak=peak)
    panel = player({"x": x}, title="t")
    error = (decoded(panel.versions[0]) - x).abs().max() * 32768
    # +1 itself has no 16-bit code, so full scale may be one bit off
    assert error <= (1.0 if peak == 1.0 else 0.5) + 1e-6
    assert panel.attenuation == 0
    assert "clips" not in panel._repr_html_()


@pytest.mark.parametrize("kind", ["panel", "blind panel"])
def test_one_attenuation_for_all_when_one_would_clip(kind):
    given = noise(peak=1.3, seed=1), noise(peak=0.2, seed=2)
    panel = abx(*given, title="t") if kind == "blind panel" else player(dict(zip("AB", given, strict=True)), title="t")
    assert [version.name for version in panel.versions] == ["A", "B"]
    assert panel.attenuation == 2.3  # 20 log10 1.3 = 2.28, rounded up to what the panel says
    for version, x in zip(panel.versions, given, strict=True):
        torch.testing.assert_close(decoded(version), x * 10 ** (-2.3 / 20), atol=0.5001 / 32768, rtol=0)
    assert all("All versions −2.3 dB so that none clips." in text for text in (panel._repr_html_(), str(panel)))
    assert panel.versions[0].peak == pytest.approx(20 * math.log10(1.3) - 2.3)


def test_file_is_named_by_its_content_and_written_once(build):
    first = player({"a": noise(), "same": noise(), "other": noise(seed=3)}, title="t")
    again = player({"b": noise()}, title="u")
    a, same, other = (v.src for v in first.versions)
    assert a == same == again.versions[0].src != other
    folder = build / "book" / "_static" / "audio"
    assert sorted(p.name for p in folder.iterdir()) == sorted(Path(src).name for src in (a, other))
    assert a.startswith("../_static/audio/")
    assert hashlib.sha256((folder / Path(a).name).read_bytes()).hexdigest().startswith(Path(a).stem)
    assert soundfile.info(folder / Path(a).name).subtype == "PCM_16"
    html = first._repr_html_()
    assert "<script" not in html
    assert "base64" not in html
    assert len(html) < 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_float_and_a_gradient(dtype):
    x = (torch.arange(-64, 64) / 128).to(dtype).requires_grad_()
    torch.testing.assert_close(decoded(player({"x": x}, title="t").versions[0]), x.detach().double(), atol=0, rtol=0)


# ---- the text -------------------------------------------------------------------------------------------------------


class Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def test_text_is_escaped(build):
    evil = "<img src=x onerror='alert(1)'>\" & co"
    page = Text(player({evil: noise(0.1)}, title=evil, caption=evil)._repr_html_())
    assert page.tags == ["div", "p", "ol", "li", "span", "span", "audio", "p"]
    assert page.text.count(evil) == 3
    assert [value for name, value in page.attributes if name == "aria-label"] == [evil, evil]


@pytest.mark.parametrize(
    ("x", "level"),
    [
        (torch.zeros(RATE), "silent"),
        (torch.zeros(10), "silent"),
        (tone(-80), "−∞ LUFS, peak −80.0 dBFS"),  # below the gate, yet not digital silence
        (tone(-20, seconds=0.3), "loudness –, peak −20.0 dBFS"),
        (tone(-20), "−23.0 LUFS, peak −20.0 dBFS"),
        (torch.ones(10), "loudness –, peak 0.0 dBFS"),
    ],
)
def test_level(x, level):
    assert str(player({"x": x}, title="Two")).splitlines() == [f"Two, {len(x) / RATE:.1f} s", f"  x: {level}"]


def test_a_blind_panel_says_what_gives_it_away():
    panel = abx(noise(peak=1.3, seed=1), noise(peak=0.2, seed=2), title="t")
    louder = panel.versions[0].loudness - panel.versions[1].loudness
    assert f"none clips. A is {louder:.1f} LU louder than B: that alone" in str(panel)
    assert "B is 20.0 LU louder than A" in str(abx(tone(-40), tone(-20), title="t"))
    assert "louder" not in str(abx(tone(-20), -tone(-20), title="t"))
    assert "louder" not in str(abx(tone(-20), torch.zeros(2 * RATE), title="t"))


def test_a_blind_panel_holds_two_versions_its_trials_and_a_word_without_script(build):
    page = Text(abx(noise(), noise(seed=1), names=("noisy", "<b>"), title="t", trials=16)._repr_html_())
    assert page.tags.count("audio") == 2
    assert ("data-trials", "16") in page.attributes
    assert {"A: noisy", "B: <b>"} < set(page.text)
    assert any("Without JavaScript" in text for text in page.text)


def test_a_blind_panel_says_what_is_wrong():
    with pytest.raises(ValueError, match="expected 1 to 100 trials, got 101"):
        abx(noise(), noise(), title="t", trials=101)
    with pytest.raises(AudioError, match="B: less: expected 16000 samples, as many as A: more, got 8000"):
        abx(noise(1), noise(0.5), names=("more", "less"), title="t")


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signals", "message"), [
    ({}, "at least one version to play, got none"),
    ({"a": noise(1), "b": noise(0.5)}, "b: expected 16000 samples, as many as a, got 8000"),
    ({"a": torch.tensor([0.0, float("nan"), float("inf")])}, "a: expected finite samples, got 2"),
    ({"a": torch.zeros(2, 100)}, r"a: expected a mono waveform \(N,\), got shape \(2, 100\)"),
    ({"a": torch.zeros(0)}, r"a: expected at least one sample, got shape \(0,\)"),
])  # fmt: skip
def test_bad_signals_name_the_version_and_what_was_expected(signals, message, build):
    with pytest.raises(AudioError, match=message):
        player(signals, title="t")
    assert not (build / "book").exists()


# ---- loudness -------------------------------------------------------------------------------------------------------

# ITU-R BS.1770-4, tables 1 and 2, for 48 kHz: the shelf and the high-pass of K-weighting
SHELF = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585]
HIGH_PASS = [1, -2, 1], [1, -1.99004745483398, 0.99007225036621]


@pytest.mark.parametrize("frequency", [50.0, 997.0, 8000.0])
def test_a_tone_is_weighted_by_the_filters_of_the_recommendation(frequency):
    gain = np.prod([abs(freqz(*taps, worN=[frequency], fs=48000)[1][0]) for taps in (SHELF, HIGH_PASS)])
    expected = -0.691 + 10 * math.log10(0.01 * gain**2 / 2)
    assert loudness(tone(-20, 4, frequency, 48000).numpy(), 48000) == pytest.approx(expected, abs=0.02)


def test_gates_leave_out_silence_quiet_parts_and_blocks_that_are_not_whole():
    speech = tone(-20, seconds=5)
    alone = loudness(speech.numpy(), RATE)
    silence, quiet = torch.zeros(5 * RATE), tone(-45, seconds=5)
    # .4-s blocks that straddle the change still count, hence .2 LU
    assert loudness(torch.cat([speech, silence]).numpy(), RATE) == pytest.approx(alone, abs=0.2)
    assert loudness(torch.cat([speech, quiet]).numpy(), RATE) == pytest.approx(alone, abs=0.2)
    assert loudness(torch.cat([speech, tone(-26, seconds=5)]).numpy(), RATE) < alone - 1.5  # loud enough to count
    assert loudness(torch.cat([speech, tone(0, seconds=0.09)]).numpy(), RATE) == pytest.approx(alone)


# ---- the server -----------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("a server") / "site"
    (root / "sub").mkdir(parents=True)
    for name, content in {"x.flac": CONTENT, "player.js": b"0", "sub/index.html": b"<p>hello"}.items():
        (root / name).write_bytes(content)
    (root.parent / "secret.txt").write_text("outside")
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    served = make_server(root)
    with running(served):
        yield served


def ask(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_server_ranges_types_and_folders(server):
    response, body = ask(server.server_port, "/x.flac")
    assert (response.status, body, response.headers["Content-Type"]) == (200, CONTENT, "audio/flac")
    assert response.headers["Cache-Control"] == "no-cache"  # a rebuilt page is seen at once
    response, body = ask(server.server_port, "/x.flac", Range="bytes=10-19")
    assert (response.status, body, response.headers["Content-Range"]) == (206, CONTENT[10:20], "bytes 10-19/102400")
    assert ask(server.server_port, "/player.js")[0].headers["Content-Type"].startswith("text/javascript")
    assert ask(server.server_port, "/sub/")[1] == b"<p>hello"
    assert ask(server.server_port, "/sub")[0].headers["Location"].endswith("/sub/")


def test_server_gives_nothing_outside_the_folder(server):
    for path in ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/link.txt", "/x%00.flac", "/none.flac"]:
        response, body = ask(server.server_port, path, Range="bytes=0-3")
        assert (response.status, b"outside" in body) == (404, False), path


def test_server_command_serves_or_says_what_is_wrong(tmp_path, server):
    command = [sys.executable, SERVE, tmp_path]
    missing = subprocess.run([*command[:2], tmp_path / "none"], capture_output=True, text=True, timeout=20)
    assert missing.returncode == 1
    assert missing.stderr == f"serve: no directory {tmp_path / 'none'}; `make book` builds it\n"
    busy = subprocess.run([*command, "--port", str(server.server_port)], capture_output=True, text=True, timeout=20)
    assert busy.returncode
    assert "Address already in use" in busy.stderr
    (tmp_path / "index.html").write_text("<p>hello")
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as run:
        try:
            port = re.search(r"http://127\.0\.0\.1:(\d+)/", run.stdout.readline())[1]
            assert ask(int(port), "/")[1] == b"<p>hello"
        finally:
            run.terminate()
