"""Detects an RTSP receiver that no longer works.

Two signs are needed. Sent data that is not acknowledged is one, but the receiving host's kernel buffers seconds of
video for a frozen program, and minutes of a still scene. So the watchdog also sends OPTIONS requests, which every RTSP
server answers. A receiver that never answered them is judged by the first sign only.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from typing import NamedTuple

from streamer.core.errors import SourceLost
from streamer.core.rtsp.client import RtspClient
from streamer.core.rtsp.message import Message

STUCK_S = 4.0
"""Seconds without progress after which the receiver counts as stuck."""
REQUEST_INTERVAL_S = 1.0
"""Interval of OPTIONS requests."""
MIN_RESPONSES = 3
"""Requests in a row that a response followed, before silence counts. RTCP reports come too, but more rarely."""
_BYTES_ACKED_OFFSET = 120
"""Offset of tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info."""


class ReceiverWatchdog:
    """Watches one connection. To be called several times a second."""

    def __init__(self) -> None:
        self._acked = -1
        self._progress_at = 0.0
        self._request_at = 0.0
        """Time of the next request."""
        self._pending_since: float | None = None
        """Time of the newest request, None before the first one."""
        self._received_before = -1
        """Bytes received when the newest request was sent."""
        self._responses = 0
        """Requests in a row that a response followed."""

    def __call__(self, client: RtspClient, now: float) -> None:
        """Send OPTIONS once per `REQUEST_INTERVAL_S`. Raises SourceLost when the receiver counts as stuck."""
        counters = _tcp_counters(client.socket)
        if not counters.unacked or counters.acked != self._acked:
            self._acked, self._progress_at = counters.acked, now
        if now - self._progress_at > STUCK_S:
            raise SourceLost(f"the receiver has acknowledged nothing for {STUCK_S:g} s")
        is_silent = self._responses >= MIN_RESPONSES and counters.received == self._received_before
        if is_silent and self._pending_since is not None and now - self._pending_since > STUCK_S:
            raise SourceLost(f"the receiver has not responded for {STUCK_S:g} s")
        if now >= self._request_at and select.select([], [client.socket], [], 0)[1]:
            self._request_at = now + REQUEST_INTERVAL_S
            self._send_request(client, counters.received, now)

    def _send_request(self, client: RtspClient, received: int, now: float) -> None:
        if self._pending_since is not None:
            if received != self._received_before:
                self._responses += 1
            elif self._responses >= MIN_RESPONSES:
                return  # it has answered until now: wait for this answer
            else:
                self._responses = 0
        self._pending_since, self._received_before = now, received
        client.send(Message("OPTIONS * RTSP/1.0"))


class _TcpCounters(NamedTuple):
    """Bytes of one connection."""

    unacked: int
    acked: int
    received: int


def _tcp_counters(connection: socket.socket) -> _TcpCounters:
    (unacked,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return _TcpCounters(unacked, *struct.unpack_from("QQ", info, _BYTES_ACKED_OFFSET))
