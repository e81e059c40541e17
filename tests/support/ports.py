"""TCP ports for servers that other programs open."""

from __future__ import annotations

import random
import socket

_FIRST, _END = 20_000, 32_768
"""Below the ports that Linux gives to connections, so that none takes the port before its server opens it."""


def free_port() -> int:
    """Return an unused TCP port of the loopback interface."""
    while True:
        port = random.SystemRandom().randrange(_FIRST, _END)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
