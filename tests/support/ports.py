"""TCP ports for servers that other programs open."""

from __future__ import annotations

import os
import random
import socket

_FIRST, _END = 20_000, 32_768
"""Below the ports that Linux gives to connections, so that none takes the port before its server opens it."""
_PARALLEL = 8
"""Each of the processes that run tests at the same time has its own ports, for the same reason."""


def free_port() -> int:
    """Return an unused TCP port of the loopback interface."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARALLEL
    while True:
        port = random.SystemRandom().randrange(_FIRST + process, _END, _PARALLEL)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
