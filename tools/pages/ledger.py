"""The claims ledger: what the papers say, what the chapters measured, and the verdicts."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from sepriors.lab.claims import NO_REASON
from tools.pages.text import WIDE, list_table, measurement

HEAD = ["Claim", "The paper says", "We measured", "Verdict", "Where"]
VERDICTS = ("holds", "fails", "not judged")
MANY = 5  # measurements above which a claim's list is folded


def judge(claims: list[dict[str, Any]], records: dict[str, dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Each claim with its verdict: `verdict`, `reason`, `evidence`, `predicate` added.

    A claim without a record, or with one from a smoke run, is 'not judged'. ValueError for a claim of no chapter, a
    verdict on an unknown id or by another chapter than the claim's own, an unknown verdict.
    """
    ids = [claim["id"] for claim in claims]
    given: dict[tuple[str, str], dict[str, Any]] = {}
    for chapter, record in records.items():
        for verdict in record["verdicts"]:
            if verdict["id"] not in ids:
                raise ValueError(f"{chapter}: expected verdicts on claims of claims.toml, got one on {verdict['id']!r}")
            if verdict["verdict"] not in VERDICTS:
                raise ValueError(f"claim {verdict['id']}: expected one of {VERDICTS}, got {verdict['verdict']!r}")
            given[chapter, verdict["id"]] = verdict
    judged = []
    for claim in claims:
        own = claim.get("chapter", "")
        if own not in names:
            raise ValueError(f"claim {claim['id']}: expected a chapter among {names}, got {own!r}")
        found = given.pop((own, claim["id"]), None)
        judged.append(claim | _verdict(found, records.get(own, {}), own))
    if given:
        raise ValueError(f"expected verdicts by the claim's own chapter, got {sorted(given)}")
    return judged


def _verdict(verdict: dict[str, Any] | None, record: dict[str, Any], chapter: str) -> dict[str, Any]:
    if record.get("profile") == "smoke":
        return {"verdict": "not judged", "reason": "A smoke run judges nothing.", "evidence": []}
    if verdict is None:
        return {"verdict": "not judged", "reason": f"Chapter {chapter} left no record of it.", "evidence": []}
    return {"reason": None, "predicate": None, "evidence": []} | verdict


def page(judged: list[dict[str, Any]]) -> str:
    """The ledger page in MyST Markdown."""
    counts = Counter(claim["verdict"] for claim in judged)
    summary = " ".join(f"{badge(verdict)} {counts[verdict]}" for verdict in VERDICTS)
    return "\n".join(
        [
            WIDE,
            "# The claims ledger",
            "",
            "Each row is a statement of a paper, judged in the executed chapter by a predicate that stands in its",
            "source and can fail. A value stands with its 95 % interval and the number of measurements, n; a claim",
            "that fails is shown with the reason, as is one that could not be judged. An interval over few files is",
            "rough, as the last chapter shows; one file, one speaker or one recording of noise gives none, and judges",
            "nothing. All figures, to download:",
            "{download}`records.csv </records/records.csv>`, {download}`records.json </records/records.json>`.",
            "",
            f'<p class="ledger-counts">{summary}</p>',
            "",
            *_unexplained(judged),
            *list_table(HEAD, [_row(claim) for claim in judged], [6, 30, 40, 12, 12], "ledger"),
            "",
        ]
    )


def unexplained(judged: list[dict[str, Any]]) -> list[str]:
    """The claims that fail without a written reason: for a reader a line on the page, for a publisher an error."""
    return [claim["id"] for claim in judged if claim["verdict"] == "fails" and claim.get("reason") in (None, NO_REASON)]


def _unexplained(judged: list[dict[str, Any]]) -> list[str]:
    ids = unexplained(judged)
    return [f"**Fails, and {NO_REASON}**: {', '.join(ids)}.", ""] if ids else []


def _row(claim: dict[str, Any]) -> list[str]:
    says = [f"{claim['statement']} ({{cite:t}}`{claim['source']}`)"]
    if claim.get("published"):
        says.append(f"Published: {claim['published']}")
    return [
        claim["id"],
        "\n\n".join(says),
        _measured(claim),
        badge(claim["verdict"]),
        f"[{claim['chapter']}](/book/{claim['chapter']}.ipynb)",
    ]


def _measured(claim: dict[str, Any]) -> str:
    evidence = [measurement(item, claim.get("unit") or "") for item in claim["evidence"]]
    parts = []
    if len(evidence) > MANY:
        items = "".join(f"<li>{escape(line)}</li>" for line in evidence)
        parts.append(f"<details><summary>{len(evidence)} measurements</summary><ul>{items}</ul></details>")
    elif evidence:
        parts.append("\n".join(f"- {line}" for line in evidence))
    if claim.get("predicate"):
        parts.append(f"Predicate: {claim['predicate']}.")
    if claim.get("reason"):
        parts.append(f"*{claim['reason'].strip()}*")
    return "\n\n".join(parts) or "–"


def badge(verdict: str) -> str:
    """The verdict as a word in a box; the colour only repeats it."""
    return f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>'
