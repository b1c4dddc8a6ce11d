"""Who stands where: gains, ranks, the front of quality and cost, from a table of records; verdicts that allow for many.

A table is one of `records.valid` or `bench.records`: a row a method, file and SNR.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sepriors.lab.bench import NOISY, complete, difference, mean_of, paired
from sepriors.lab.claims import Interval, bootstrap
from sepriors.lab.corpora.sets import class_of, clusters_of, recording_of, speaker_of
from sepriors.lab.peers import PEERS
from sepriors.methods import METHODS
from sepriors.weights import cards, load

FALSE = 0.05  # the share of verdicts between pairs of methods that may be false
# Trained on pairs of noisy and clean speech, be their noise simulated; of the packages of others, all but one
SUPERVISED = {name for name, entry in METHODS.items() if "supervised:" in entry.about}
SUPERVISED |= PEERS.keys() - {"noisereduce"}
# Cards that a method's own began from: their training counts, their parameters are in its own
BEFORE = {"bsse": ("ssl",), "use-ddp": ("codec",)}


def methods_in(table: pd.DataFrame) -> list[str]:
    """The methods of a table, but for the noisy mixture itself."""
    return [str(name) for name in table["method"].unique() if name != NOISY]


def by_gain(table: pd.DataFrame, metric: str = "si_sdr") -> list[str]:
    """The methods that have a measure, the best first."""
    gain = {name: mean_of(paired(table, metric, name)) for name in methods_in(table)}
    return sorted((name for name, e in gain.items() if e.n), key=lambda name: -gain[name].value)


def gains(table: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """What each method adds to the noisy input, ± half its interval: a row a method, a column a measure by title."""
    rows = {}
    for name in by_gain(table, next(iter(metrics))):
        each = {title: mean_of(paired(table, metric, name)) for metric, title in metrics.items() if metric in table}
        cost = table.loc[table["method"] == name, "rtf"].mean()
        rows[name] = {title: _short(e) for title, e in each.items()} | {"RTF": f"{cost:.3f}"}
    return pd.DataFrame.from_dict(rows, orient="index").map(lambda text: text.replace("-", "−"))


def _short(e: Interval) -> str:
    """A gain and half its interval.

    >>> _short(Interval(1.234, 1.0, 1.5, 9)), _short(Interval(1.234, float("nan"), float("nan"), 1))
    ('+1.23 ± 0.25', '+1.23')
    """
    if not e.n:
        return "–"
    return f"{e.value:+.2f}" + (f" ± {(e.high - e.low) / 2:.2f}" if e.has_interval else "")


def stands_on(table: pd.DataFrame) -> str:
    """How many files, speakers and recordings of noise are behind a table, in words; of pairs nobody knows the last."""
    files = table["file"].unique()
    groups = {"file": set(files), "speaker": set(map(speaker_of, files))}
    if class_of(files[0]) != "none":
        groups["recording of noise"] = set(map(recording_of, files))
    named = [f"{len(of)} {name if len(of) == 1 else _plural(name)}" for name, of in groups.items()]
    return ", ".join(named)


def _plural(name: str) -> str:
    first, *rest = name.split(" ", 1)
    return " ".join([f"{first}s", *rest])


def verdicts(table: pd.DataFrame, metric: str = "si_sdr") -> pd.DataFrame:
    """Rows against columns: 1 where the row is better, −1 where it is worse, 0 where the files do not decide.

    At a false discovery rate of `FALSE` over all pairs (Benjamini & Yekutieli, 2001, since pairs share methods); of a
    paired difference, see `_chance`. Pairs without a file in common are not decided.
    """
    names = methods_in(table)
    signs = pd.DataFrame(0, names, names)
    pairs = [(a, b, difference(table, metric, a, b)) for a, b in combinations(names, 2) if _meet(table, metric, a, b)]
    known = [(a, b, e) for a, b, e in pairs if e.has_interval]
    p = [_chance(e) for *_, e in known]
    for (a, b, e), adjusted in zip(known, stats.false_discovery_control(p, method="by") if known else [], strict=True):
        if adjusted < FALSE:
            signs.loc[a, b] = sign = int(np.sign(e.value))
            signs.loc[b, a] = -sign
    return signs


def _chance(e: Interval) -> float:
    """How likely a mean as far from zero is where there is no difference, by Student's t.

    The deviation is that of the bootstrap's interval, which lacks the sample's correction (Efron & Tibshirani, 1993).
    """
    deviation = max(e.high - e.low, 1e-12) / 3.92 * (e.n / (e.n - 1)) ** 0.5
    return float(2 * stats.t.sf(abs(e.value) / deviation, e.n - 1))


def _meet(table: pd.DataFrame, metric: str, a: str, b: str) -> bool:
    """Whether two methods have a file in common."""
    return bool(complete(table, metric, a, b).notna().any())


def ranks(table: pd.DataFrame, metric: str = "si_sdr") -> dict[str, tuple[int, int]]:
    """The least and the largest rank of each method that `verdicts` leave open."""
    signs = verdicts(table, metric)
    better, worse = (signs < 0).sum(axis=1), (signs > 0).sum(axis=1)
    return {name: (1 + int(better[name]), len(signs) - int(worse[name])) for name in signs.index}


def front(rtf: Any, gain: Mapping[str, float]) -> list[str]:
    """Those that nobody beats who is as quick, the quickest first; `rtf` is a mapping or a series by name.

    >>> front({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1.0, "b": 0.5, "c": 2.0})
    ['a', 'c']
    """
    best = [name for name in gain if not any(rtf[n] <= rtf[name] and gain[n] > gain[name] for n in gain)]
    return sorted(best, key=lambda name: rtf[name])


def lost(here: pd.DataFrame, there: pd.DataFrame, names: Sequence[str], metric: str = "si_sdr") -> Interval:
    """What methods gain less in a set than in another, averaged over them, recording of noise by recording.

    Of recordings that both have; resampled over these and the speakers of the second set.
    """
    sides = []
    for table in (here, there):
        gain = pd.concat([paired(table, metric, name) for name in names], axis=1).mean(axis=1, skipna=False)
        by_file = gain.groupby("file").mean()
        sides.append(by_file)
    at = sides[0].groupby(recording_of).mean()
    known = sides[1][[recording_of(file) in at.index for file in sides[1].index]]
    before = at[[recording_of(file) for file in known.index]].to_numpy()
    clusters = clusters_of(map(str, known.index))
    return bootstrap(before - known.to_numpy(), f"{metric} lost", **clusters)  # type: ignore[arg-type]


def by_kind(table: pd.DataFrame, kind: Callable[[str], str], metric: str = "si_sdr") -> pd.DataFrame:
    """The mean gain of each method, the best first, over the files of each kind: a class of noise, a sex, ..."""
    parts = dict(list(table.groupby(table["file"].map(kind))))
    means = {
        name: {k: mean_of(paired(part, metric, name)).value for k, part in parts.items() if _has(part, name)}
        for name in by_gain(table, metric)
    }
    return pd.DataFrame.from_dict(means, orient="index", columns=list(parts))


def _has(table: pd.DataFrame, name: str) -> bool:
    return bool((table["method"] == name).any())


def made_of(name: str) -> tuple[int, float]:
    """The parameters of a method's weights, and the minutes that their training took."""
    used = METHODS[name].cards if name in METHODS else ()
    parameters = sum(x.numel() for card in used for x in load(card).tensors.values())
    return parameters, sum(cards()[card]["train_seconds"] for card in (*used, *BEFORE.get(name, ()))) / 60
