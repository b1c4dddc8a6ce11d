"""Figures of the book: each function draws one and returns it closed, so a notebook shows it once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure

from sepriors.signal.stft import STFT

# Okabe & Ito's palette: told apart by every kind of colour vision, and readable on white and on dark grey
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}
NAMES = {
    "pesq_wb": "PESQ (wide-band)",
    "pesq_nb": "PESQ (narrow-band)",
    "pesq_raw": "PESQ (raw narrow-band)",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "si_sdr": "SI-SDR (dB)",
    "fwsnrseg": "fwSNRseg (dB)",
    "csig": "CSIG",
    "cbak": "CBAK",
    "covl": "COVL",
    "dnsmos_sig": "DNSMOS SIG",
    "dnsmos_bak": "DNSMOS BAK",
    "dnsmos_ovr": "DNSMOS OVRL",
}


@contextmanager
def _panels(
    rows: int, columns: int, size: tuple[float, float], *, dpi: int = STYLE["figure.dpi"], **shared: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure in our style and its axes (rows, columns), to draw within the block; closed at its end."""
    with plt.rc_context(STYLE | {"figure.dpi": dpi, "savefig.dpi": dpi}):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **shared)
        yield figure, axes
    plt.close(figure)


def spectrograms(
    signals: Mapping[str, torch.Tensor], stft: STFT | None = None, *, range_db: float = 70.0, columns: int = 2
) -> Figure:
    """Power spectrograms of waveforms (N,) by name, in dB below the loudest bin of all: one scale for them all.

    >>> len(spectrograms({"noisy": torch.randn(16000), "clean": torch.randn(16000)}).axes)
    3
    """
    stft = stft or STFT(512, 128)
    levels = {name: 10 * stft(x).abs().square().clamp_min(1e-12).log10() for name, x in signals.items()}
    top = max(float(level.max()) for level in levels.values())
    columns = min(columns, len(levels))
    rows = -(-len(levels) // columns)
    size = (4.2 * columns, 1.9 * rows + 0.3)
    with _panels(rows, columns, size, dpi=72, sharex=True, sharey=True) as (figure, axes):  # noise needs few pixels,
        for ax in axes.flat[len(levels) :]:
            ax.set_visible(False)
        for ax, (name, level) in zip(axes.flat, levels.items(), strict=False):
            seconds = level.shape[-1] * stft.hop / stft.sample_rate
            extent = (0.0, seconds, 0.0, stft.sample_rate / 2000)
            # and steps of 3 dB, fewer than the eye tells on this scale
            place = {"origin": "lower", "aspect": "auto", "extent": extent}
            image = ax.imshow(3 * ((level - top) / 3).round().numpy(), vmin=-range_db, vmax=0, cmap="magma", **place)
            ax.set_title(name)
            ax.grid(False)
        for ax in axes[-1]:
            ax.set_xlabel("time (s)")
        for ax in axes[:, 0]:
            ax.set_ylabel("kHz")
        figure.colorbar(image, ax=axes, label="dB", shrink=0.9)
    return figure


def metric_curves(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    *,
    published: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Figure:
    """A panel a measure: mean over files against SNR, one line a method, its 95 % interval as a band.

    `published[metric][method]`, values at the same SNRs, are drawn dashed in the method's colour: other data, for the
    shape only.
    """
    with _panels(1, len(metrics), (3.1 * len(metrics), 2.9)) as (figure, axes):
        for ax, metric in zip(axes[0], metrics, strict=True):
            rows = summary[summary["metric"] == metric]
            for colour, (method, group) in zip(cycle(COLOURS), rows.groupby("method", sort=False), strict=False):
                group = group.sort_values("snr_db")
                ax.plot(group["snr_db"], group["value"], "o-", color=colour, ms=3, label=method)
                ax.fill_between(group["snr_db"], group["low"], group["high"], color=colour, alpha=0.15, lw=0)
                if method in (published or {}).get(metric, {}):
                    ax.plot(group["snr_db"], published[metric][method], "x--", color=colour, ms=4, lw=0.9)  # type: ignore[index]
            ax.set_title(NAMES.get(metric, metric))
            ax.set_xlabel("SNR (dB)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def dots(differences: Mapping[str, Sequence[tuple[str, float, float, float]]], *, label: str) -> Figure:
    """A panel a title: (name, value, low, high) as dots with their intervals about zero."""
    with _panels(1, len(differences), (3.4 * len(differences), 2.6), sharey=True) as (figure, axes):
        for ax, (title, rows) in zip(axes[0], differences.items(), strict=True):
            y = np.arange(len(rows))[::-1]
            for place, (_, value, low, high) in zip(y, rows, strict=True):
                ax.plot([low, high], [place, place], color=COLOURS[0], lw=2, alpha=0.5)
                ax.plot(value, place, "o", color=COLOURS[0], ms=5)
            ax.axvline(0, color="0.5", lw=0.8)
            ax.set_yticks(y, [name for name, *_ in rows])
            ax.set_title(title)
            ax.set_xlabel(label)
    return figure


def fronts(
    rtf: Any,
    gains: Mapping[str, Mapping[str, float]],
    best: Mapping[str, Sequence[str]],
    squares: Collection[str] = (),
) -> Figure:
    """A panel a measure: gain against the real-time factor, and a stair of the best of each, see `standings.front`.

    The others are pale, and have a name only where there is one panel.
    """
    with _panels(1, len(gains), (max(8.0, 3.0 * len(gains)), 3.6), dpi=80) as (figure, axes):
        for ax, (title, gain) in zip(axes[0], gains.items(), strict=True):
            for name, value in gain.items():
                colour, alpha = COLOURS[int(name in squares)], 1.0 if name in best[title] else 0.35
                ax.plot(rtf[name], value, "s" if name in squares else "o", ms=5, color=colour, alpha=alpha)
                if name in best[title] or len(gains) == 1:
                    place = {"xytext": (4, 3), "textcoords": "offset points"}
                    ax.annotate(name, (rtf[name], value), fontsize=7, alpha=max(alpha, 0.6), **place)
            stair = [(rtf[name], gain[name]) for name in best[title]]
            ax.step(*zip(*stair, strict=True), where="post", color="0.6", lw=0.8, zorder=0)
            ax.axhline(0, color="0.8", lw=0.8, zorder=0)
            ax.set(xscale="log", xlabel="real-time factor", ylabel=title)
            ax.margins(0.18, 0.1)  # a name stands to the right of its point
    return figure


def pairs(signs: Mapping[str, pd.DataFrame]) -> Figure:
    """A square chart a measure of `standings.verdicts`: blue where the row is better, orange where it is worse."""
    with _panels(1, len(signs), (4.7 * len(signs), 4.8), dpi=80) as (figure, axes):
        for ax, (title, chart) in zip(axes[0], signs.items(), strict=True):
            ax.imshow(chart.to_numpy(), cmap=ListedColormap([COLOURS[1], "#EEEEEE", COLOURS[0]]), vmin=-1, vmax=1)
            ax.set_xticks(range(len(chart)), chart.columns, rotation=90, fontsize=7)
            ax.set_yticks(range(len(chart)), chart.index, fontsize=7)
            ax.set_title(f"{title}: row against column")
            ax.grid(False)
    return figure


def heat(values: pd.DataFrame, label: str) -> Figure:
    """A table as a chart, each cell with its number; from orange below zero to blue above."""
    rows, columns = values.shape
    most = float(values.abs().max().max())
    with _panels(1, 1, (0.75 * columns + 2.2, 0.23 * rows + 1.0), dpi=80) as (figure, axes):
        ax, blues = axes[0, 0], LinearSegmentedColormap.from_list("", [COLOURS[1], "#FFFFFF", COLOURS[0]])
        ax.imshow(values.to_numpy(), cmap=blues, vmin=-most, vmax=most, aspect="auto")
        for (y, x), value in np.ndenumerate(values.to_numpy()):
            ink = "white" if abs(value) > 0.7 * most else "black"
            ax.text(x, y, f"{value:.1f}".replace("-", "−"), ha="center", va="center", fontsize=7, color=ink)
        ax.set_xticks(range(columns), values.columns)
        ax.set_yticks(range(rows), values.index, fontsize=7)
        ax.set_title(label)
        ax.grid(False)
    return figure


def shifts(here: pd.Series, there: pd.Series, label: str, names: tuple[str, str]) -> Figure:
    """A dot a method for one set and a diamond for another, joined: sorted by the first."""
    order = [name for name in here.sort_values().index if name in there.index]
    with _panels(1, 1, (6.4, 0.2 * len(order) + 1.2), dpi=80) as (figure, axes):
        ax, y = axes[0, 0], range(len(order))
        ax.hlines(y, here[order], there[order], color="0.7", lw=1.2, zorder=0)
        ax.plot(here[order], y, "o", color=COLOURS[0], ms=5, label=names[0])
        ax.plot(there[order], y, "D", color=COLOURS[1], ms=4, label=names[1])
        ax.set_yticks(y, order, fontsize=7)
        ax.set_xlabel(label)
        ax.legend(fontsize=7, loc="lower right")
    return figure


def cell(row: pd.Series, digits: int | None = None) -> str:
    """A row of a summary as people print it: 'value ± half-width of the interval', and the coverage, '(n/of)'.

    Coverage stands where files have no value, '–' where none has, and no half-width where there is no interval.
    """
    if not row["n"]:
        return "–"
    if digits is None:
        digits = 2 if row["metric"] in ("si_sdr", "fwsnrseg", "pesq_wb", "pesq_nb", "pesq_raw") else 3
    half = (row["high"] - row["low"]) / 2
    text = f"{row['value']:.{digits}f}" + (f" ± {half:.{digits}f}" if half == half else "")
    return text if row["n"] == row["of"] else f"{text} ({row['n']}/{row['of']})"


def table(summary: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The summary as people print it: a row a method, a column a measure and SNR, see `cell`."""
    rows = summary[summary["metric"].isin(metrics)]
    shown = rows.assign(shown=rows.apply(cell, axis=1), measure=rows["metric"].map(lambda m: NAMES.get(m, m)))
    wide = shown.pivot(index="method", columns=["measure", "snr_db"], values="shown")
    order = [(NAMES.get(m, m), snr) for m in metrics for snr in sorted(rows["snr_db"].unique())]
    wide = wide.reindex(columns=pd.MultiIndex.from_tuples(order), index=list(dict.fromkeys(rows["method"])))
    wide.columns = pd.MultiIndex.from_tuples([(m, f"{snr:g}") for m, snr in order], names=["", "SNR (dB)"])
    return wide.rename_axis(index=None)
