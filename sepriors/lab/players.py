"""Listening panels: several versions of one recording, on one playhead, at one gain, with their loudness beside them.

Nothing here makes a version louder or softer than it is. `IPython.display.Audio` normalises by default, so a residue
50 dB down sounds like the speech itself; a comparison by ear is only worth its level.
"""

import base64
import hashlib
import html
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyloudnorm
import torch

from sepriors.files import atomic_write
from sepriors.signal.audio import AudioError, check, flac16


@dataclass(frozen=True)
class Version:
    """One version of the recording, as played: loudness in LUFS, peak in dBFS, and the address of its FLAC."""

    name: str
    loudness: float
    peak: float
    src: str

    @property
    def level(self) -> str:
        """What stands under the version's name: its loudness and its peak."""
        if self.peak == -math.inf:
            return "silent"
        loudness = "loudness –" if math.isnan(self.loudness) else f"{_decibels(self.loudness)} LUFS"
        return f"{loudness}, peak {_decibels(self.peak)} dBFS"


@dataclass(frozen=True, repr=False)
class Player:
    """A listening panel, which a notebook shows as HTML and a terminal as one line a version."""

    title: str
    caption: str
    seconds: float
    attenuation: float  # dB, common to all versions; 0 unless one of them would clip
    versions: tuple[Version, ...]
    trials: int = 0  # of a blind comparison: is X, drawn anew for each, A or B?

    def __repr__(self) -> str:
        # Not the generated one: the text beside the HTML in a notebook would carry the audio a second time.
        lines = [f"{self.title}, {self.seconds:.1f} s", *(f"  {v.name}: {v.level}" for v in self.versions)]
        return "\n".join([*lines, *([f"  {self._note}"] if self._note else [])])

    @property
    def _note(self) -> str:
        notes = [f"All versions {_decibels(-self.attenuation)} dB so that none clips."] if self.attenuation else []
        if self.trials:
            a, b = (version.loudness for version in self.versions)
            louder = round(a - b, 1) if math.isfinite(a - b) else 0.0
            which = "A is {} LU louder than B" if louder > 0 else "B is {} LU louder than A"
            notes += [f"{which.format(_decibels(abs(louder)))}: that alone may tell them apart."] if louder else []
        return " ".join(notes)

    def _repr_html_(self) -> str:
        title = html.escape(self.title)
        kind, trials = (" sp-abx", f' data-trials="{self.trials}"') if self.trials else ("", "")
        attributes = f'class="sp-player{kind}" data-seconds="{self.seconds:.3f}"{trials}'
        told = "Without JavaScript the two can be heard side by side; the blind trials need it."
        parts = [
            f'<div {attributes} role="group" aria-label="{title}">',
            f'<p class="sp-title">{title}</p>',
            '<ol class="sp-versions">',
            *(_version_html(v) for v in self.versions),
            "</ol>",
            f'<p class="sp-noscript">{told}</p>' if self.trials else "",
            f'<p class="sp-note">{self._note}</p>' if self._note else "",
            f'<p class="sp-caption">{html.escape(self.caption)}</p>' if self.caption else "",
            "</div>",
        ]
        panel = "\n".join(part for part in parts if part)
        if not self.versions[0].src.startswith("data:"):
            return panel
        return f"<style>{_static('player.css')}</style>\n{panel}\n<script>{_static('player.js')}</script>"


def player(signals: Mapping[str, torch.Tensor], sample_rate: int = 16000, *, title: str, caption: str = "") -> Player:
    """A panel to compare versions of one recording by ear: name -> waveform (N,), full scale ±1.

    All versions share one playhead and one gain. The audio is 16-bit FLAC, neither normalised nor clipped: if one
    version exceeds full scale, all of them are attenuated alike, in steps of .1 dB, and the panel says so. In the book
    (`SEPRIORS_BUILD` is set) the FLACs go to `book/_static/audio` of the build tree under the hash of their content;
    elsewhere the panel carries audio, style and script, and needs no other file.

    Raises AudioError, which names the version, unless every signal is real floating-point, 1-D, finite, not empty, and
    as long as the first.

    >>> n = torch.arange(16000)
    >>> player({"tone": 0.1 * torch.sin(2 * torch.pi * 997 / 16000 * n)}, title="A tone at −20 dBFS")
    A tone at −20 dBFS, 1.0 s
      tone: −23.0 LUFS, peak −20.0 dBFS
    """
    return Player(title, caption, *_prepare(signals, sample_rate))


def abx(
    a: torch.Tensor, b: torch.Tensor, sample_rate: int = 16000, *, title: str, caption: str = "",
    names: tuple[str, str] = ("", ""), trials: int = 10,
) -> Player:  # fmt: skip
    """A blind ABX test of two versions (N,) of one recording: can they be told apart by ear?

    In each trial X is A or B, drawn by the browser; one listens to all three, as often as one likes, and says which it
    is. After `trials` answers the panel shows how many were right, and the exact one-sided binomial p: how often
    guesses do as well or better. The number of trials is fixed and the score shown at the end, since whoever stops at a
    good score makes p too small. The audio is that of `player`: on one playhead, at one gain, neither normalised nor
    matched in loudness; where A and B differ in loudness, the panel says by how much. Nothing is stored or sent.

    Keys, while the panel has the focus: Space plays and pauses; A, B, X (or 1, 2, 3, or the arrows) switch; Shift+A
    answers 'X is A', Shift+B 'X is B'; [ and ] seek by 1 s.

    Raises AudioError as `player` does, ValueError unless there are 1 to 100 trials.

    >>> n = torch.arange(16000)
    >>> tone = 0.1 * torch.sin(2 * torch.pi * 997 / 16000 * n)
    >>> abx(tone, 0.5 * tone, names=("a tone", "half of it"), title="A factor of 2")
    A factor of 2, 1.0 s
      A: a tone: −23.0 LUFS, peak −20.0 dBFS
      B: half of it: −29.0 LUFS, peak −26.0 dBFS
      A is 6.0 LU louder than B: that alone may tell them apart.
    """
    if not 1 <= trials <= 100:
        raise ValueError(f"expected 1 to 100 trials, got {trials}")
    signals = {f"{letter}: {name}" if name else letter: x for letter, name, x in zip("AB", names, (a, b), strict=True)}
    return Player(title, caption, *_prepare(signals, sample_rate), trials)


def _prepare(signals: Mapping[str, torch.Tensor], sample_rate: int) -> tuple[float, float, tuple[Version, ...]]:
    """Length in seconds, common attenuation in dB, and the versions as they will be played."""
    waveforms = _check(signals, sample_rate)
    peak = max(float(np.abs(x).max()) for x in waveforms.values())
    # the least multiple of .1 dB that takes the peak to full scale or below: the figure shown is the one applied
    attenuation = math.ceil(200 * math.log10(peak)) / 10 if peak > 1 else 0.0
    gain = 10 ** (-attenuation / 20)
    versions = tuple(_version(name, gain * x, sample_rate) for name, x in waveforms.items())
    return len(next(iter(waveforms.values()))) / sample_rate, attenuation, versions


def loudness(x: np.ndarray, sample_rate: int) -> float:
    r"""Integrated loudness of a mono signal (N,) in LUFS (ITU-R BS.1770-4), by pyloudnorm.

    -inf if all of it is below the gate at -70 LUFS (silence); nan if N is shorter than a block of .4 s.

    >>> n = np.arange(16000)
    >>> round(loudness(np.sin(2 * np.pi * 997 / 16000 * n), 16000), 1)
    -3.0
    """
    block, hop = round(0.4 * sample_rate), round(0.1 * sample_rate)
    if len(x) < block:
        return math.nan
    whole = len(x) - (len(x) - block) % hop  # pyloudnorm would count a last block that is not full, the standard not
    # De Man's filters give the standard's table; those that pyloudnorm calls K-weighting are off by up to .3 LU.
    return float(pyloudnorm.Meter(sample_rate, filter_class="DeMan").integrated_loudness(x[:whole]))


def _decibels(value: float) -> str:
    """One decimal with a true minus sign; never "−0.0"."""
    if value == -math.inf:
        return "−∞"
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _check(signals: Mapping[str, torch.Tensor], sample_rate: int) -> dict[str, np.ndarray]:
    """The signals as float64 arrays (N,), or an AudioError that names the first bad one."""
    if not signals:
        raise AudioError("expected at least one version to play, got none")
    if sample_rate < 1:
        raise AudioError(f"expected a sample rate in Hz, got {sample_rate}")
    first = next(iter(signals))
    for name, x in signals.items():
        if check(x, name).ndim != 1:
            raise AudioError(f"{name}: expected a mono waveform (N,), got shape {tuple(x.shape)}")
        if len(x) != len(signals[first]):
            raise AudioError(f"{name}: expected {len(signals[first])} samples, as many as {first}, got {len(x)}")
    return {name: x.detach().cpu().double().numpy() for name, x in signals.items()}


def _version(name: str, x: np.ndarray, sample_rate: int) -> Version:
    peak = np.abs(x).max()
    flac = flac16(x, sample_rate)
    build = os.environ.get("SEPRIORS_BUILD")
    src = _store(flac, Path(build)) if build else f"data:audio/flac;base64,{base64.b64encode(flac).decode()}"
    return Version(name, loudness(x, sample_rate), 20 * math.log10(peak) if peak else -math.inf, src)


def _store(flac: bytes, build: Path) -> str:
    """Write the file under the hash of its content and return its address as seen from a page."""
    name = f"{hashlib.sha256(flac).hexdigest()[:16]}.flac"
    with atomic_write(build / "book" / "_static" / "audio" / name) as part:  # chapters run side by side
        part.write_bytes(flac)
    return f"../_static/audio/{name}"


def _version_html(version: Version) -> str:
    """One row: without the script, name, level and the browser's own player."""
    nbsp = "\N{NO-BREAK SPACE}"
    level = version.level.replace(" ", nbsp).replace(f",{nbsp}", ", ")  # breaks at the comma only
    return (
        f'<li><span class="sp-name">{html.escape(version.name)}</span> <span class="sp-level">{level}</span>'
        f'<audio controls preload="metadata" aria-label="{html.escape(version.name)}" src="{version.src}"></audio></li>'
    )


def _static(name: str) -> str:
    return (files("sepriors.lab") / "static" / name).read_text(encoding="utf-8")
