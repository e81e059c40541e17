"""Whether the receiver at the other end of this process' TCP connection still works; libav made it and hides it.

There are two signs, for neither is enough. What is sent may wait and not be taken: but the system over there takes some
seconds of video for a program that is frozen, and minutes of a scene in which little moves. So the program is also
asked something that every RTSP server answers, OPTIONS; one that never did is not judged by that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

PROBE_S = 3.0
STILL_S = 4.0
ASK_S = 1.0
SURE = 3
"""Questions in a row that were followed by something before the next one; reports come more rarely."""
_ACKED_AND_RECEIVED = 120
"""Of struct tcp_info, where tcpi_bytes_acked and tcpi_bytes_received stand."""


def probe_receiver(host: str, port: int) -> None:
    """Ask whether somebody is there, before libav does and waits for ever. Raises OSError."""
    try:
        with socket.create_connection((host, port), PROBE_S) as connection:
            connection.sendall(_question(1))
            if not connection.recv(1):
                raise ConnectionResetError(errno.ECONNRESET, "the receiver hung up")
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, f"the receiver does not answer within {PROBE_S:g} s") from None


class ReceiverWatchdog:
    """One connection. `ask` is for the thread that writes, `stuck` for another one, since the first may be blocked."""

    def __init__(self) -> None:
        self._acked = -1
        self._moved_at = 0.0
        self._ask_at = 0.0
        self._asked = 0
        self._asked_at: float | None = None
        """When the question was put that has no answer yet."""
        self._received_then = -1
        self._answered = 0

    def ask(self, now: float) -> None:
        """Put a question between two pictures, once in `ASK_S`."""
        if now < self._ask_at:
            return
        self._ask_at = now + ASK_S
        with _connection() as connection:
            if connection is None or not select.select([], [connection], [], 0)[1]:
                return  # no room: that which waits tells enough
            received = _told(connection)[2]
            if self._asked_at is not None:
                if received != self._received_then:
                    self._answered += 1
                elif self._answered >= SURE:
                    return
                else:
                    self._answered = 0
            self._asked += 1
            self._asked_at, self._received_then = now, received
            # Numbers that libav's own questions never have.
            connection.send(_question(90_000 + self._asked), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def stuck(self, now: float) -> str | None:
        """What the receiver has not done for `STILL_S`, if it is so. To be called several times in a second."""
        with _connection() as connection:
            if connection is None:
                return None
            waiting, acked, received = _told(connection)
        if not waiting or acked != self._acked:
            self._acked, self._moved_at = acked, now
        if now - self._moved_at > STILL_S:
            return f"the receiver has taken nothing for {STILL_S:g} s"
        is_silent = self._answered >= SURE and received == self._received_then
        if is_silent and self._asked_at is not None and now - self._asked_at > STILL_S:
            return f"the receiver has answered nothing for {STILL_S:g} s"
        return None


def _question(number: int) -> bytes:
    return f"OPTIONS * RTSP/1.0\r\nCSeq: {number}\r\n\r\n".encode()


@contextmanager
def _connection() -> Iterator[socket.socket | None]:
    """A second handle of the connection, for now; None when there is none. Kept longer it would keep it open."""
    found = _find()
    try:
        yield found
    finally:
        if found is not None:
            found.close()


def _find() -> socket.socket | None:
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                connection = socket.socket(fileno=os.dup(int(name)))
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    return connection
                connection.close()
        except OSError:
            continue  # closed since it was listed
    return None


def _told(connection: socket.socket) -> tuple[int, int, int]:
    """Bytes that wait to be taken, that were taken, and that came."""
    (waiting,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))
    acked, received = struct.unpack_from(
        "QQ", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), _ACKED_AND_RECEIVED
    )
    return waiting, acked, received
