"""What makes priors and judges them: corpora, recipes, training, the bench, claims, figures, players (extra `lab`)."""

from importlib import import_module
from typing import Any

# imported when first asked for: they bring pandas, matplotlib or a pool of processes with them
_LATER = (
    "bench", "claims", "climbs", "commands", "corpora", "jobs", "ood", "peers", "players", "plots", "recipes",
    "records", "sounds", "standings", "studies", "train", "training",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
