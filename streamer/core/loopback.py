"""Ports of the loopback interface on which this process serves itself."""

from __future__ import annotations

import socket
from contextlib import ExitStack

_reserved: list[int] = []


def reserve(number: int) -> list[int]:
    """Choose free ports, which `listen` uses from now on, and return them.

    A process that may use named ports only must know them before.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        _reserved[:] = [one.getsockname()[1] for one in sockets]
    return list(_reserved)


def listen(host: str, backlog: int) -> socket.socket:
    """Return a socket that listens on `host`, an address of this computer, on a reserved port if there are any.

    Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _reserved[:-1]:
        try:
            return socket.create_server((host, port), family=family, backlog=backlog)
        except OSError:
            continue  # in use
    return socket.create_server((host, _reserved[-1] if _reserved else 0), family=family, backlog=backlog)
