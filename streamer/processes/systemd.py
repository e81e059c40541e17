"""Telling systemd how the service is: sd_notify(3), which is one datagram to the socket in $NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notifier:
    """Says nothing where nobody listens. Taken out of the environment, so that no child speaks for the service."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", None)
        interval = os.environ.pop("WATCHDOG_USEC", None)
        meant = os.environ.pop("WATCHDOG_PID", None) in (None, str(os.getpid()))
        self._interval = int(interval) / 1e6 if interval and meant else None
        self._fed_at = 0.0
        self._status: str | None = None
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    def status(self, words: str) -> None:
        """One line for `systemctl status`, sent when it changes."""
        if words != self._status:
            self._status = words
            self._send(f"STATUS={words}")

    def feed(self) -> None:
        """Feed the watchdog, three times in the time that it allows."""
        now = time.monotonic()
        if self._interval is not None and now - self._fed_at >= self._interval / 3:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # systemd is being replaced: nothing depends on it
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
