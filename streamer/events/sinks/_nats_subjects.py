"""Subjects of NATS, made from names. Different names never give the same one."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def event_subject(prefix: str, source: str, subject: str) -> str:
    """Return the subject of an event. The dots in its CloudEvents subject divide it, as in `incident.ladder`."""
    parts = [*source.removeprefix("/agents/").split("/"), *subject.split(".")]
    return ".".join([prefix, *map(_token, parts)])


def _token(part: str) -> str:
    """Return a part without dots, wildcards and spaces, which have a meaning in a subject."""
    return _UNSAFE.sub(lambda match: _escaped(match[0]), part)


def _escaped(character: str) -> str:
    return "".join(f"={byte:02X}" for byte in character.encode())
