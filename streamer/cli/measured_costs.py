"""What answers cost this computer's device, as `streamer bench` measured it and keeps it for `streamer check`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from streamer.core import atomic_file
from streamer.core.paths import state_home
from streamer.types import Costs

FILE = "costs.json"
_KEPT = TypeAdapter(dict[str, Costs])
_SHIPPED = ""
"""Stands for the shipped model, which has no name in a config."""


def keep(checkpoint: str | None, task: str, seconds: float) -> None:
    """Note what an answer costs here, for all agents of this user. Raises OSError when it cannot be written."""
    path, kept = costs_file(), _read()
    before = kept.get(checkpoint or _SHIPPED)
    known = {**(before.seconds if before else {}), task: float(f"{seconds:.4g}")}
    kept[checkpoint or _SHIPPED] = Costs(f"here by `streamer bench`, {date.today()}", known)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write(path, _KEPT.dump_json(kept, indent=1).decode() + "\n")


def measured(checkpoint: str | None) -> Costs | None:
    """What is kept of that checkpoint."""
    return _read().get(checkpoint or _SHIPPED)


def costs_file() -> Path:
    """Where they are kept, by checkpoint."""
    return state_home() / FILE


def _read() -> dict[str, Costs]:
    try:
        return _KEPT.validate_json(costs_file().read_bytes())
    except (OSError, ValidationError):
        return {}  # measured again, at worst
