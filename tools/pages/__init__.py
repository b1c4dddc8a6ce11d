"""Write the pages that no one types: from what the chapters left in the build tree, and from the package itself.

The chapters leave `records/NAME/*.json` and `runs/NAME.json`. Python collects what a page shows; how it stands there is
a Jinja template of `templates/`.
"""

import json
from pathlib import Path
from typing import Any

from sepriors.lab.claims import read_claims
from tools import chapters, repository
from tools.pages import api, equations, faults, leaderboard, ledger, records, run, trust, weights


def write_pages(source: Path, tree: Path) -> None:
    """Write the generated pages of `book/` and the records to download into the tree.

    Raises ValueError for a record or a map that is not true.
    """
    claims = list(read_claims(source / "book" / "claims.toml").values())
    names = [path.stem for path in chapters(source)]
    verdicts = read_verdicts(tree)
    pages = {
        "ledger": ledger.page(ledger.judge(claims, verdicts, names)),
        "leaderboard": leaderboard.page(tree, source),
        "trust": trust.page(tree, source),
        "run": run.page(run.read_runs(tree, names), verdicts, tree),
        "equations": equations.page(source),
        "faults": faults.page(faults.read(source / "tests"), repository()),
        "weights": weights.page(source),
        **api.pages(source),
    }
    records.write_records(tree)
    for name, text in pages.items():
        (tree / "book" / f"{name}.md").write_text(text)


def read_verdicts(tree: Path) -> dict[str, dict[str, Any]]:
    """What each chapter recorded about its claims: chapter -> contents of `claims.json`."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(tree.glob("records/*/claims.json"))}
