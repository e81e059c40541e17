"""The uvicorn server with limits for slow clients and for floods."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import os
import socket
import struct
import termios
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from streamer.config.bind import Bind
from streamer.core.errors import ConfigError
from streamer.web.connections import CONNECTION, Connection, Connections

WRITE_TIMEOUT_S, MIN_READ_BYTES = 5.0, 16 << 10
"""Clients that read less than so many bytes in so many seconds are disconnected while a response waits for them."""
REQUEST_TIMEOUT_S = 10.0
"""Longest time from a connection's start, or from a request's first byte, to the end of the request."""
SEND_BUFFER_BYTES = 256 << 10
"""Socket send buffer. A larger one would only delay live video on slow connections."""
MAX_HEAD_BYTES = 16 << 10
"""Longest request line and headers of a request together. Bodies are limited where one is read, see `auth.py`."""
STOP_TIMEOUT_S = 1
"""Time for open responses to end when the server stops."""
KEEP_ALIVE_S = 15
ACCEPTED_AT_ONCE = 64
"""Connections that the event loop accepts in one turn. Above the limits they are closed in the next one."""
BACKLOG = 1024
"""Connections that the system keeps until they are accepted. Others would have to try again after a second."""
MAX_MESSAGES = 1000
"""Different log messages that are counted."""


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).addFilter(_RareRecords())
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, functools.partial(_Protocol, connections)),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # URLs may contain a token
                server_header=False,
                proxy_headers=False,
                backlog=ACCEPTED_AT_ONCE,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # asyncio has set it to the number that it accepts at once

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers; the worker has its own."""
        yield


def listen(bind: Bind) -> socket.socket:
    """Return a listening socket. Raises ConfigError if the address cannot be used."""
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(bind)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"web.bind: cannot serve on {bind}: {os.strerror(error.errno or 0)}") from None
    return listener


class _RareRecords(logging.Filter):
    """Lets the 1st, 2nd, 4th, 8th … record of each message pass: a client can cause them without limit."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg).partition("\n")[0]
        if len(self._counts) >= MAX_MESSAGES:
            self._counts.clear()
        self._counts[message] += 1
        count = self._counts[message]
        if count > 1:
            record.msg = f"{record.msg} ({count} times so far)"
        return count.bit_count() == 1


class _Protocol(H11Protocol):
    """An HTTP connection that is aborted if a request or a write takes too long."""

    _timeout: asyncio.TimerHandle | None = None

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._open_connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connection = Connection(transport, self.client[0] if self.client else "")
        self._open_connections.opened(self._connection)
        self.app_state = {**self.app_state, CONNECTION: self._connection}
        self._abort_after(REQUEST_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if cycle is None or cycle.response_complete:
            if self._timeout is None:
                self._abort_after(REQUEST_TIMEOUT_S)
        elif not self.flow.write_paused:
            self._cancel_timeout()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timeout()
        self._open_connections.closed(self._connection)
        super().connection_lost(exc)

    def _await_reading(self, before: int | None = None) -> None:
        """Abort if the client has read too little since `before` bytes were left to send; else look again later."""
        left = self._bytes_left()
        self._cancel_timeout()
        if before is not None and before - left < MIN_READ_BYTES:
            self._abort()
        else:
            self._timeout = asyncio.get_running_loop().call_later(WRITE_TIMEOUT_S, self._await_reading, left)

    def _bytes_left(self) -> int:
        """Return the bytes that are not sent, or sent but not received, yet."""
        in_system = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_system)
        return self.transport.get_write_buffer_size() + in_system[0]

    def _abort_after(self, seconds: float) -> None:
        self._cancel_timeout()
        self._timeout = asyncio.get_running_loop().call_later(seconds, self.transport.abort)

    def _abort(self) -> None:
        """Close the connection at once, and drop what the system has not sent yet."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
