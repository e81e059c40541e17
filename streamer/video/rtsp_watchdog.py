"""Detects an RTSP receiver that no longer works, over the TCP connection that libav made and does not expose.

Two signs are needed. Sent data that is not acknowledged is one, but the receiving host's kernel buffers seconds of
video for a frozen program, and minutes of a still scene. So the watchdog also sends OPTIONS requests, which every RTSP
server answers. A receiver that never answered them is judged by the first sign only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
from typing import NamedTuple

PROBE_TIMEOUT_S = 3.0
STUCK_S = 4.0
"""Seconds without progress after which the receiver counts as stuck."""
REQUEST_INTERVAL_S = 1.0
"""Interval of OPTIONS requests."""
MIN_RESPONSES = 3
"""Requests in a row that a response followed, before silence counts. RTCP reports come too, but more rarely."""
_FIRST_CSEQ = 90_001
"""Sequence number of the first request, far above those of libav's own requests."""
_BYTES_ACKED_OFFSET = 120
"""Offset of tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info."""


def probe_receiver(host: str, port: int) -> None:
    """Check that an RTSP server responds; libav would wait without limit for one that does not. Raises OSError."""
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S) as connection:
            connection.sendall(_options_request(1))
            if not connection.recv(1):
                raise ConnectionResetError(errno.ECONNRESET, "the receiver closed the connection")
    except TimeoutError:
        message = f"the receiver does not respond within {PROBE_TIMEOUT_S:g} s"
        raise TimeoutError(errno.ETIMEDOUT, message) from None


class ReceiverWatchdog:
    """Watches one connection. The writing thread calls `send_request`; another one calls `stuck_reason`.

    Two threads, because the writing thread may itself be blocked.
    """

    def __init__(self) -> None:
        self._acked = -1
        self._progress_at = 0.0
        self._request_at = 0.0
        """Time of the next request."""
        self._cseq = _FIRST_CSEQ
        self._pending_since: float | None = None
        """Time of the newest request, None before the first one."""
        self._received_before = -1
        """Bytes received when the newest request was sent."""
        self._responses = 0
        """Requests in a row that a response followed."""

    def send_request(self, now: float) -> None:
        """Send OPTIONS between two frames, once per `REQUEST_INTERVAL_S`."""
        if now < self._request_at:
            return
        self._request_at = now + REQUEST_INTERVAL_S
        with _tcp_connection() or contextlib.nullcontext() as connection:
            if connection is None or not select.select([], [connection], [], 0)[1]:
                return  # the send buffer is full: unacknowledged data is sign enough
            received = _tcp_counters(connection).received
            if self._pending_since is not None:
                if received != self._received_before:
                    self._responses += 1
                elif self._responses >= MIN_RESPONSES:
                    return
                else:
                    self._responses = 0
            self._pending_since, self._received_before = now, received
            connection.send(_options_request(self._cseq), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self._cseq += 1

    def stuck_reason(self, now: float) -> str | None:
        """Return why the receiver counts as stuck, or None. To be called several times a second."""
        with _tcp_connection() or contextlib.nullcontext() as connection:
            if connection is None:
                return None
            counters = _tcp_counters(connection)
        if not counters.unacked or counters.acked != self._acked:
            self._acked, self._progress_at = counters.acked, now
        if now - self._progress_at > STUCK_S:
            return f"the receiver has acknowledged nothing for {STUCK_S:g} s"
        is_silent = self._responses >= MIN_RESPONSES and counters.received == self._received_before
        if is_silent and self._pending_since is not None and now - self._pending_since > STUCK_S:
            return f"the receiver has not responded for {STUCK_S:g} s"
        return None


class _TcpCounters(NamedTuple):
    """Bytes of one connection."""

    unacked: int
    acked: int
    received: int


def _options_request(cseq: int) -> bytes:
    return f"OPTIONS * RTSP/1.0\r\nCSeq: {cseq}\r\n\r\n".encode()


def _tcp_connection() -> socket.socket | None:
    """Return a duplicate of the process' TCP socket, or None. To be closed at once: it keeps the connection."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since it was listed
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                connection = socket.socket(fileno=os.dup(int(name)))
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    return connection
                connection.close()
    return None


def _tcp_counters(connection: socket.socket) -> _TcpCounters:
    (unacked,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return _TcpCounters(unacked, *struct.unpack_from("QQ", info, _BYTES_ACKED_OFFSET))
