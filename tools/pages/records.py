"""All that the chapters measured, to download: `records.json`, whole, and `records.csv`, a row a figure."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepriors.lab.bench import complete, estimate, mean_of
from sepriors.lab.claims import Interval, bootstrap

COLUMNS = ["chapter", "record", "claim", "verdict", "method", "of", "snr_db", "metric", "value", "low", "high", "n",
           "missing", "unit", "profile", "corpus", "seed", "commit", "hardware", "finished"]  # fmt: skip
APART = {"method", "snr_db", "file", "seed", "why"}  # what a row of a bench says beside its measures


def read_records(tree: Path) -> list[dict[str, Any]]:
    """Every record that a chapter left, with `chapter` and `record`, its file's name; each knows what its run knew."""
    found = []
    for path in sorted(tree.glob("records/*/*.json")):
        chapter = path.parent.name
        run = tree / "runs" / f"{chapter}.json"
        known = json.loads(run.read_text()) if run.exists() else {}
        facts = {name: known[name] for name in ("profile", "seed", "commit", "finished") if name in known}
        if known:
            facts["hardware"] = {"cpu": known["cpu"], "cores": known["cores"]}
        found.append({"chapter": chapter, "record": path.stem, **facts, **json.loads(path.read_text())})
    return found


def write_records(tree: Path) -> None:
    """Write `records/records.json` and `records/records.csv` into the tree."""
    found = read_records(tree)
    (tree / "records").mkdir(exist_ok=True)
    (tree / "records" / "records.json").write_text(json.dumps(found))
    long_table(found).to_csv(tree / "records" / "records.csv", index=False)


def long_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a figure: the evidence of each claim, and each measure's mean over files with its 95 % interval."""
    rows = [{**_facts(record), **row} for record in records for row in (*_evidence(record), *_means(record))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    hardware, corpus = record.get("hardware", {}), record.get("corpus")
    computed_on = [hardware.get("gpu") or hardware.get("cpu"), f"{hardware['cores']} cores" if hardware else None]
    return {
        **{name: record.get(name) for name in ("chapter", "record", "profile", "seed", "commit", "finished")},
        "corpus": _told(corpus) if isinstance(corpus, dict) else str(corpus),
        "hardware": ", ".join(part for part in computed_on if part),
    }


def _told(facts: Mapping[str, Any]) -> str:
    """Facts in one line.

    >>> _told({"name": "emodb", "speakers": 2})
    'name: emodb; speakers: 2'
    """
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def _evidence(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for verdict in record.get("verdicts", []):
        claim = {"claim": verdict["id"], "verdict": verdict["verdict"], "unit": verdict.get("unit")}
        for measured in verdict["evidence"]:
            yield {**claim, "metric": measured.get("label"), **measured}


def _means(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The means of a bench: texts and whole numbers say of what, the other columns are measures."""
    if not record.get("records"):
        return
    table = pd.DataFrame(record["records"])
    columns = [str(name) for name in table if name not in APART]
    measures = [name for name in columns if pd.api.types.is_float_dtype(table[name])]
    texts = [name for name in columns if not pd.api.types.is_numeric_dtype(table[name])]
    for values, group in table.groupby(texts, sort=False, dropna=False) if texts else [((), table)]:
        of = _told(dict(zip(texts, values, strict=True)))
        for measure in measures:
            for who, found in _intervals(group, measure):
                if found.n:
                    yield {**who, "of": of, "metric": measure, **found._asdict()}


def _intervals(group: pd.DataFrame, measure: str) -> Iterator[tuple[dict[str, Any], Interval]]:
    """Of whom, and the mean with its interval; of a bench, files that have the measure at every SNR, see `complete`."""
    bench = [name for name in ("method", "snr_db", "file") if name in group]
    if len(bench) == 3 and not group.duplicated(bench).any():
        for method, rows in group.groupby("method", sort=False):
            values = complete(group, measure, str(method))
            for snr in rows["snr_db"].unique():
                yield {"method": method, "snr_db": snr}, mean_of(values, snr)
        return
    keys = [name for name in bench if name != "file"]
    for place, rows in group.groupby(keys, sort=False) if keys else [((), group)]:
        if rows[measure].notna().any():
            by_file = "file" in rows
            found = estimate(rows.set_index("file")[measure]) if by_file else bootstrap(rows[measure].to_numpy())
            yield dict(zip(keys, place, strict=True)), found
