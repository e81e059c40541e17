"""Sessions of browsers: a signed cookie in place of the token.

The server stores nothing, so a session survives a restart. The key is derived from the token: a stolen cookie does not
reveal the token, and another token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

IDLE_S = 7 * 86400
"""A session ends after so long without a request."""
LONGEST_S = 30 * 86400
"""A session ends so long after its login."""
RENEW_S = 3600
"""Age of a cookie from which a response sends a new one with the time of the last request."""
SKEW_S = 300
"""A cookie may be this far in the future: the clock was set back."""


class Session(NamedTuple):
    opened: int
    """Unix second of the login."""
    seen: int
    """Unix second at which this cookie was written."""

    def expires_in(self, now: float) -> int:
        """Return the seconds until the session ends without further requests."""
        return int(min(self.opened + LONGEST_S, self.seen + IDLE_S) - now)


class SessionKey:
    """Writes and checks cookie values."""

    def __init__(self, token: str) -> None:
        self._key = hmac.digest(token.encode(), b"streamer session", hashlib.sha256)

    def write(self, session: Session) -> str:
        content = f"{session.opened}.{session.seen}.{secrets.token_hex(8)}"
        return f"{content}.{self._sign(content)}"

    def read(self, value: str, now: float) -> Session | None:
        """Return the session of a cookie, or None if it has ended or was not written with this token."""
        content, _, signature = value.rpartition(".")
        if not equal(signature, self._sign(content)):
            return None
        opened, seen, _ = content.split(".")
        session = Session(int(opened), int(seen))
        return session if session.seen <= now + SKEW_S and session.expires_in(now) > 0 else None

    def _sign(self, content: str) -> str:
        return hmac.digest(self._key, content.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def renewed(session: Session, now: float) -> Session | None:
    """Return the session with a new time of its last request, or None if its cookie is new enough."""
    return session._replace(seen=int(now)) if now - session.seen >= RENEW_S else None


def equal(given: str, expected: str) -> bool:
    """Compare in constant time, so that the time reveals neither the length nor how much of `given` is right."""
    one, other = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, expected))
    return hmac.compare_digest(one, other)


def cookie_of(header: str, name: str) -> str | None:
    """Return the value of a cookie in a Cookie header."""
    found = re.search(rf"(?:^|;)\s*{re.escape(name)}=([^;\s]*)", header)
    return found[1] if found else None
