"""The uvicorn server with timeouts for slow clients."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from streamer.config.web import Bind
from streamer.core.errors import ConfigError

WRITE_TIMEOUT_S = 5.0
"""Clients that read nothing for so many seconds are disconnected."""
REQUEST_TIMEOUT_S = 10.0
"""Longest time from a connection's start, or from a request's first byte, to the end of the request."""
SEND_BUFFER_BYTES = 256 << 10
"""Socket send buffer. A larger one would only delay live video on slow connections."""
MAX_CONNECTIONS = 256
STOP_TIMEOUT_S = 1
"""Time for open responses to end when the server stops."""
KEEP_ALIVE_S = 15
BACKLOG = 128


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,  # URLs may contain a token
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )

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


class _Connection(H11Protocol):
    """An HTTP connection that is aborted if a request or a write takes too long."""

    _timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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
        self._abort_after(WRITE_TIMEOUT_S)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timeout()
        super().connection_lost(exc)

    def _abort_after(self, seconds: float) -> None:
        self._cancel_timeout()
        self._timeout = asyncio.get_running_loop().call_later(seconds, self.transport.abort)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
