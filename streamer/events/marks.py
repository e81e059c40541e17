"""Marks the phrases of a text that the picture does not support, for people. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

UNSUPPORTED = " (?)"
"""Mark behind a phrase that is not supported."""


def mark_unsupported(text: str, ends: Iterable[int]) -> str:
    """Return the text with a mark at each of these positions, which are the ends of phrases."""
    for end in sorted(ends, reverse=True):
        text = f"{text[:end]}{UNSUPPORTED}{text[end:]}"
    return text


def marked_text(result: Mapping[str, Any]) -> str | None:
    """Return the text of an event's `result` as plain data, with its marks; None without a text."""
    text: str | None = result.get("text")
    ends = [span["end"] for span in result.get("spans", ()) if not span["supported"]]
    return mark_unsupported(text, ends) if text and ends else text
