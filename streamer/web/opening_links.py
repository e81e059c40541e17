"""Links that log a browser in, once each. A used link may stay in histories and logs: it opens nothing more."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from streamer.web.session import equal

OPEN_PATH = "/open/"
USED_LINK = "This link was used before, or is not right. Open the newest link that the command has printed."


class OpeningLinks:
    """One valid link for each person; the next one is printed when it was used. Belongs to the event loop."""

    def __init__(self, address: str, names: Iterable[str], tell: Callable[[str], None]) -> None:
        """`address`: URL of the page without a path. `tell`: prints a line for the user."""
        self._address, self._tell = address, tell
        self._names: dict[str, str] = {}
        """Person by token."""
        for name in names:
            tell(f"open as {name}: {self._new(name)}")

    def take(self, token: str) -> str | None:
        """Return whom a token logs in, and replace it; None if it is not valid."""
        for valid, name in self._names.items():
            if equal(token, valid):
                del self._names[valid]
                self._tell(f"opened as {name}; for another browser: {self._new(name)}")
                return name
        return None

    def _new(self, name: str) -> str:
        token = secrets.token_urlsafe(24)
        self._names[token] = name
        return f"{self._address}{OPEN_PATH}{token}"
