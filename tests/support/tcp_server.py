"""A TCP server on this computer with one thread per connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import abstractmethod
from typing import Self


class TcpServer:
    """A context manager that listens on a free port."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._listener = socket.create_server((host, 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"{self._host}:{self._listener.getsockname()[1]}"

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """Serve one connection, which is closed afterwards. An OSError ends it."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self.serve(client)
            _end(client)


def _end(client: socket.socket) -> None:
    """End a connection. Closing it with unread data would reset it, and the client might lose the last answer."""
    client.settimeout(5)
    client.shutdown(socket.SHUT_WR)
    while client.recv(1 << 16):
        pass
