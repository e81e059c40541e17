"""Seconds per answer on this computer: `streamer bench` stores them, `streamer check` reads them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from streamer.core import atomic_file
from streamer.core.paths import state_home
from streamer.types import Costs

FILE = "costs.json"
_FORMAT = TypeAdapter(dict[str, Costs])
_INCLUDED = ""
"""Key of the included model, which has no checkpoint name in a config."""


def store(checkpoint: str | None, task: str, seconds: float) -> None:
    """Store a task's seconds per answer, for all agents of this user. Raises OSError if that is not possible."""
    path, costs = costs_file(), _read()
    before = costs.get(checkpoint or _INCLUDED)
    by_task = {**(before.seconds if before else {}), task: float(f"{seconds:.4g}")}
    costs[checkpoint or _INCLUDED] = Costs(f"here by `streamer bench`, {date.today()}", by_task)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write(path, _FORMAT.dump_json(costs, indent=1).decode() + "\n")


def measured(checkpoint: str | None) -> Costs | None:
    """Return the stored costs of a checkpoint (None: the included model), or None."""
    return _read().get(checkpoint or _INCLUDED)


def costs_file() -> Path:
    """Return the path of the file that stores the costs."""
    return state_home() / FILE


def _read() -> dict[str, Costs]:
    try:
        return _FORMAT.validate_json(costs_file().read_bytes())
    except (OSError, ValidationError):
        return {}  # missing or damaged: the costs can be measured again
