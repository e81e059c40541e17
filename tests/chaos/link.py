"""A TCP proxy that can be cut without either side being notified."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType
from typing import Self


class Link:
    """Forwards connections to `port` of the loopback interface in both directions; a context manager.

    While it is cut, it forwards nothing and closes nothing, so both sides have a half-open connection.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._cut, self._broken, self._over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def cut(self) -> None:
        self._cut.set()

    def mend(self) -> None:
        """Forward new connections again; close the old ones."""
        self._cut.clear()

    def break_off(self) -> None:
        """Close all connections soon. New ones are forwarded."""
        self._broken.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        for one in (self._listener, *self._pairs):
            one.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            if self._cut.is_set():
                self._wait()
            if self._broken.is_set():
                self._broken.clear()
                self._close_all()
            for one in select.select([self._listener, *self._pairs], [], [], 0.1)[0]:
                if one is self._listener:
                    self._connect()
                elif one in self._pairs:
                    self._forward(one)

    def _wait(self) -> None:
        while self._cut.is_set() and not self._over.wait(0.05):
            pass
        self._close_all()

    def _connect(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), 1)
        except OSError:
            near.close()
            return
        self._pairs[near], self._pairs[far] = far, near

    def _forward(self, one: socket.socket) -> None:
        try:
            data = one.recv(1 << 16)
            self._pairs[one].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(one)

    def _close_all(self) -> None:
        for one in list(self._pairs):
            self._close(one)

    def _close(self, one: socket.socket) -> None:
        other = self._pairs.pop(one, None)
        if other is not None:
            self._pairs.pop(other, None)
            one.close()
            other.close()
