"""Limits of wrong tokens, by client and in all. Pure: the clock is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

CLIENT_BURST, CLIENT_EVERY_S = 10, 6.0
"""Wrong tokens of one client that are checked at once, and the seconds per further one."""
ALL_BURST, ALL_EVERY_S = 100, 0.6
"""The same for all clients together."""
KNOWN_S = 86400.0
"""A client that sent the right token is not limited for so long: somebody else at its address may be guessing."""
MAX_CLIENTS = 10_000
"""Clients that are remembered; the one that was quiet for longest is forgotten first."""


@dataclass(slots=True)
class _Allowance:
    """Wrong tokens that may still be checked: a token bucket."""

    burst: int
    every_s: float
    left: float
    at: float

    def wait(self, now: float) -> float:
        """Return the seconds until one more may be checked, 0 if it may now."""
        self.left = min(self.burst, self.left + (now - self.at) / self.every_s)
        self.at = now
        return 0.0 if self.left >= 1 else (1 - self.left) * self.every_s

    def take(self, now: float) -> None:
        self.wait(now)
        self.left = max(0.0, self.left - 1)


class TokenThrottle:
    """Decides whether a token may be checked. Clients are told apart by `client_key`."""

    def __init__(self, now: float) -> None:
        self._all = _Allowance(ALL_BURST, ALL_EVERY_S, ALL_BURST, now)
        self._clients: OrderedDict[str, _Allowance] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Return the seconds until a token of this client may be checked, 0 if it may now."""
        if self._knows_token(client, now):
            return 0.0
        own = self._clients.get(client)
        return max(self._all.wait(now), 0.0 if own is None else own.wait(now))

    def wrong(self, client: str, now: float) -> None:
        """Count a wrong token."""
        if not self._knows_token(client, now):
            self._all.take(now)
        own = self._clients.pop(client, None) or _Allowance(CLIENT_BURST, CLIENT_EVERY_S, CLIENT_BURST, now)
        own.take(now)
        _remember(self._clients, client, own)

    def right(self, client: str, now: float) -> None:
        """Remember that this client knows the token."""
        _remember(self._known, client, now)

    def _knows_token(self, client: str, now: float) -> bool:
        return client in self._known and now - self._known[client] < KNOWN_S


def _remember(clients: OrderedDict[str, Any], client: str, value: object) -> None:
    clients[client] = value
    clients.move_to_end(client)
    if len(clients) > MAX_CLIENTS:
        clients.popitem(last=False)
