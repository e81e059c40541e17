"""Texts of cameras, models and receivers on a terminal and in the log."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, marks that turn the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    """Return `text` as one line that changes nothing else on a terminal: unsafe characters become escapes."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 rule`, `2 rules`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
