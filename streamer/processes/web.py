"""The web process' life: one address, one event loop, and a thread that asks the cameras."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from streamer.config.web import Bind
from streamer.core.errors import ConfigError
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from streamer.processes.worker import Worker
from streamer.web.app import Site, make_app
from streamer.web.mjpeg import JpegHub
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.task_list import TaskLists

log = logging.getLogger(__name__)

SLOW_S = 5.0
"""A browser that takes nothing for so long is cut."""
REQUEST_S = 10.0
"""So long a browser has from the first byte of a request to its last."""
SEND_BUFFER = 256 << 10
"""Bytes the system keeps for a browser: more would only make live pictures older on a slow line."""
MAX_CONNECTIONS = 256
STOP_S = 1
BEAT_S = 0.5
KEEP_ALIVE_S = 15


def run(worker: Worker) -> None:
    """Serve until asked to stop. Raises ConfigError when the address cannot be had."""
    assert worker.config.web is not None
    with _listen(worker.config.web.bind) as listener, CapturePoller(worker.runtime, worker.config.streams) as cameras:
        asyncio.run(_serve(worker, listener, cameras))


async def _serve(worker: Worker, listener: socket.socket, cameras: CapturePoller) -> None:
    book = LedgerQuery(worker.state / LEDGER_FILE)
    tail, live, tasks = EventFollower(book), JpegHub(worker.runtime), TaskLists(worker.runtime, worker.config)
    site = Site(worker.config, worker.runtime, cameras, tail, live, tasks)
    server = _Server(_config(site))

    def stop() -> None:
        asyncio.get_running_loop().remove_reader(worker.stop_fd)
        server.should_exit = True
        tail.close()
        live.close()

    asyncio.get_running_loop().add_reader(worker.stop_fd, stop)
    beating = asyncio.create_task(_beat(worker))
    asking = asyncio.create_task(tasks.follow(tail))
    following = asyncio.create_task(tail.run())
    following.add_done_callback(lambda _: stop() if not worker.stopping else None)
    address = f"http://{Bind(*listener.getsockname()[:2])}"
    log.info("the page is at %s", address)
    worker.report("ready", address=address)
    await server.serve([listener])
    await following
    beating.cancel()
    asking.cancel()
    tasks.close()
    book.close()


async def _beat(worker: Worker) -> None:
    """Signs of life of the event loop."""
    while True:
        worker.heartbeat.beat()
        await asyncio.sleep(BEAT_S)


def _listen(bind: Bind) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind(bind)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(f"web.bind: cannot serve on {bind}: {os.strerror(error.errno or 0)}") from None
    return listener


def _config(site: Site) -> uvicorn.Config:
    return uvicorn.Config(
        make_app(site),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # a token may stand in an address
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
    )


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's."""
        yield


class _Connection(H11Protocol):
    """An HTTP connection that does not wait for ever."""

    _timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._abort_after(REQUEST_S)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast(RequestResponseCycle | None, self.cycle)
        if cycle is None or cycle.response_complete:
            if self._timeout is None:
                self._abort_after(REQUEST_S)
        elif not self.flow.write_paused:
            self._cancel_timeout()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_after(SLOW_S)

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
