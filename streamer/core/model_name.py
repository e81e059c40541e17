"""Names of models, as events, commands and datasets show them."""

from __future__ import annotations

HASH_SHOWN = 12
"""Digits of a hash that are shown."""


def model_name(name: str, digest: str) -> str:
    """Return a checkpoint's name with the first digits of its hash."""
    return f"{name}@{digest[:HASH_SHOWN]}"
