"""Links in notifications: each allows one thing, for a short time, without the token of the page."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal, NamedTuple

Purpose = Literal["picture", "snooze", "wrong"]
LIFETIMES_S: dict[Purpose, int] = {"picture": 7200, "snooze": 43200, "wrong": 43200}
"""Seconds for which a link is valid, by its purpose: a phone may be offline for the first hour."""
_TOKEN = re.compile(r"(picture|snooze|wrong)\.([0-9a-f]{32})\.(\d{10})\.([0-9a-f]{64})")


class Link(NamedTuple):
    purpose: str
    incident: str


class PushLinks:
    """Writes and checks links."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, purpose: Purpose, incident: str, now: float) -> str:
        """Return the path of a link, relative to the page. `now`: unix second."""
        content = f"{purpose}.{incident}.{int(now) + LIFETIMES_S[purpose]}"
        return f"push/{purpose}/{content}.{self._sign(content)}"

    def read(self, path: str, now: float) -> Link | None:
        """Return what a path allows; None if it is no link, was changed, or its time is over."""
        _, place, purpose, token = parts if len(parts := path.split("/")) == 4 else ("", "", "", "")
        found = _TOKEN.fullmatch(token)
        if place != "push" or found is None or found[1] != purpose:
            return None
        content, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature, self._sign(content)) or int(found[3]) < now:
            return None
        return Link(purpose, found[2])

    def _sign(self, content: str) -> str:
        return hmac.digest(self._key, content.encode(), hashlib.sha256).hex()
