"""Figures have what they should show; tables say how many files stand behind a number."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from sepriors import STFT, metrics
from sepriors.lab import plots


@pytest.fixture(autouse=True)
def _headless():
    before = dict(mpl.rcParams)
    plt.switch_backend("Agg")
    yield
    assert plt.get_fignums() == []  # every figure is closed: a notebook shows what it is given, once
    del before["backend"]
    assert {k: v for k, v in mpl.rcParams.items() if k != "backend"} == before


def summary():
    rows = []
    for method, base in (("noisy", 0.0), ("ours", 1.0)):
        for snr in (5.0, -5.0):  # not in order
            for metric in ("si_sdr", "stoi"):
                n = 0 if (method, snr, metric) == ("ours", 5.0, "stoi") else 3 if method == "ours" else 4
                value = base + snr / 10 if n else np.nan
                rows.append({"method": method, "snr_db": snr, "metric": metric, "n": n, "of": 4, "value": value,
                             "low": value - 0.25, "high": value + 0.35})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("signals", "columns", "panels"), [(1, 2, 1), (3, 2, 4), (4, 1, 4)])
def test_spectrograms(signals, columns, panels):
    g = torch.Generator().manual_seed(0)
    named = {f"s{i}": 10.0**-i * torch.randn(8000, generator=g) for i in range(signals)}
    figure = plots.spectrograms(named, columns=columns)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(figure.axes) == panels + 1  # and the colour bar
    assert [ax.get_title() for ax in shown] == list(named)
    for i, ax in enumerate(shown):
        level = ax.images[0].get_array()
        assert level.shape == STFT(512, 128)(named["s0"]).shape
        assert (ax.images[0].get_clim(), ax.get_ylim()) == ((-70, 0), (0, 8))
        assert level.max() == pytest.approx(-20 * i, abs=3)  # one scale: the second is 20 dB below the first
        assert ax.get_xlim()[1] == pytest.approx(0.5, abs=0.02)


def test_curves():
    published = {"si_sdr": {"ours": [0.5, 1.5]}}
    figure = plots.metric_curves(summary(), ["si_sdr", "stoi"], published=published)
    first, _ = figure.axes
    assert (first.get_title(), len(first.collections)) == ("SI-SDR (dB)", 2)  # a band a method
    noisy, ours, paper = first.lines
    assert list(noisy.get_xdata()) == [-5, 5]
    np.testing.assert_allclose([line.get_ydata() for line in first.lines], [[-0.5, 0.5], [0.5, 1.5], [0.5, 1.5]])
    assert paper.get_color() == ours.get_color() != noisy.get_color()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["noisy", "ours"]


def test_the_table():
    got = plots.table(summary(), ["stoi", "si_sdr"])
    assert list(got.index) == ["noisy", "ours"]
    assert list(got.columns) == [("STOI", "-5"), ("STOI", "5"), ("SI-SDR (dB)", "-5"), ("SI-SDR (dB)", "5")]
    assert got.loc["noisy", ("SI-SDR (dB)", "5")] == "0.50 ± 0.30"
    assert got.loc["noisy", ("STOI", "-5")] == "-0.500 ± 0.300"
    assert got.loc["ours", ("SI-SDR (dB)", "5")] == "1.50 ± 0.30 (3/4)"  # coverage
    assert got.loc["ours", ("STOI", "5")] == "–"
    assert plots.table(summary(), ["stoi"]).shape == (2, 2)
    one = summary().assign(low=np.nan, high=np.nan)  # of one file: no interval
    assert plots.table(one, ["stoi"]).loc["noisy", ("STOI", "-5")] == "-0.500"
    assert plots.cell(one.iloc[0], 1) == "0.5"


def test_every_measure_has_a_name():
    assert plots.NAMES.keys() == metrics.METRICS.keys()
