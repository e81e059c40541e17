"""The state of the service for systemd: sd_notify(3), one datagram to the socket in $NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket
import time

COMMIT_TIMEOUT_S = 8.0
"""Emit commits at least every 5 s, even without events. If the last commit is older, events cannot be stored, and the
watchdog is no longer fed. Nothing else makes systemd restart the service, least of all a camera."""


class ServiceStatus:
    """Reports readiness, status and watchdog to systemd; does nothing without $NOTIFY_SOCKET.

    Removes systemd's variables from the environment, so that children do not report for the service.
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", None)
        interval = os.environ.pop("WATCHDOG_USEC", None)
        is_ours = os.environ.pop("WATCHDOG_PID", None) in (None, str(os.getpid()))
        self._watchdog_s = int(interval) / 1e6 if interval and is_ours else None
        self._fed_at = 0.0
        self._is_ready = False
        self._status: str | None = None
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    def update(self, committed_at: float, status: str) -> None:
        """Report the state. `committed_at`: monotonic second of the last commit of events; `status`: one line."""
        now = time.monotonic()
        if now - committed_at < COMMIT_TIMEOUT_S:
            self._feed_watchdog(now)
            if not self._is_ready:
                self._is_ready = True
                self._send("READY=1")
        elif self._is_ready:
            status = "events cannot be stored, see the log"
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _feed_watchdog(self, now: float) -> None:
        """Feed the watchdog three times per its timeout."""
        if self._watchdog_s is not None and now - self._fed_at >= self._watchdog_s / 3:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(OSError):  # systemd may be restarting itself
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
