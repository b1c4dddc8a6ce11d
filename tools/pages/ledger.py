"""The claims ledger: what the papers say, what the chapters measured, and the verdicts."""

from collections import Counter
from typing import Any

from sepriors.lab.claims import NO_REASON
from tools.pages.text import render

VERDICTS = ("holds", "fails", "not judged")
MANY = 5  # measurements above which a claim's list is folded


def judge(claims: list[dict[str, Any]], records: dict[str, dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Each claim with its verdict: `verdict`, `reason`, `evidence`, `predicate` added.

    A claim without a record, or with one from a smoke run, is 'not judged'. ValueError for a claim of no chapter, a
    verdict on an unknown id or by another chapter than the claim's own, an unknown verdict.
    """
    owners = {claim["id"]: claim.get("chapter", "") for claim in claims}
    for id, own in owners.items():
        if own not in names:
            raise ValueError(f"claim {id}: expected a chapter among {names}, got {own!r}")
    given = {}
    for chapter, record in records.items():
        for verdict in record["verdicts"]:
            id = verdict["id"]
            if id not in owners:
                raise ValueError(f"{chapter}: expected verdicts on claims of claims.toml, got one on {id!r}")
            if owners[id] != chapter:
                raise ValueError(f"claim {id}: expected verdicts by the claim's own chapter, got one by {chapter}")
            if verdict["verdict"] not in VERDICTS:
                raise ValueError(f"claim {id}: expected one of {VERDICTS}, got {verdict['verdict']!r}")
            given[id] = verdict
    return [claim | _verdict(given.get(claim["id"]), records, claim["chapter"]) for claim in claims]


def _verdict(verdict: dict[str, Any] | None, records: dict[str, dict[str, Any]], chapter: str) -> dict[str, Any]:
    bare: dict[str, Any] = {"verdict": "not judged", "reason": None, "predicate": None, "evidence": []}
    if records.get(chapter, {}).get("profile") == "smoke":
        return bare | {"reason": "A smoke run judges nothing."}
    return bare | (verdict or {"reason": f"Chapter {chapter} left no record of it."})


def unexplained(judged: list[dict[str, Any]]) -> list[str]:
    """The claims that fail without a written reason: for a reader a line on the page, for a publisher an error."""
    return [claim["id"] for claim in judged if claim["verdict"] == "fails" and claim.get("reason") in (None, NO_REASON)]


def page(judged: list[dict[str, Any]]) -> str:
    """The ledger page in MyST Markdown."""
    counts = Counter(claim["verdict"] for claim in judged)
    return render(
        "ledger.md.jinja",
        claims=judged,
        counts={verdict: counts[verdict] for verdict in VERDICTS},
        many=MANY,
        no_reason=NO_REASON,
        unexplained=unexplained(judged),
    )
