"""Figures of the book: each function draws one and returns it closed, so a notebook shows it once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
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
