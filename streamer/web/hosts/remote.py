"""Another host, as the page of this one asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

from pydantic import BaseModel

from streamer.bus.curve import CurveClient, LinkFailed
from streamer.bus.host_keys import HostKeys
from streamer.core.errors import ConfigError, WireError
from streamer.core.ipc import decode_json
from streamer.core.logs import RareLog
from streamer.web.hosts.protocol import MAX_ANSWER_BYTES, MAX_ASK_BYTES, MAX_OPEN, PIECES, Ask, Next, Piece, Stop
from streamer.web.hosts.request import Answer, Chunk, HostUnreachable, PageRequest
from streamer.web.hosts.wake import Wake

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""Pause before a broken connection is made again."""
TICK_S = 1.0


class _Received(NamedTuple):
    piece: Piece
    body: bytes


class RemoteHost:
    """The connection to another host. `run` keeps it. Belongs to the event loop."""

    def __init__(self, keys: HostKeys, name: str, address: str, port: int) -> None:
        self.name = name
        self.problem: str | None = "not connected yet"
        """Reason why it cannot be asked, None while it can."""
        self._keys, self._address, self._port = keys, address, port
        self._client: CurveClient | None = None
        self._numbers = count()
        self._open: dict[int, asyncio.Queue[_Received | HostUnreachable]] = {}
        self._wake = Wake()
        self._failures = RareLog(log, f"host {name}: connection failed %s: %s", noun="time")

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        while True:
            try:
                await self._connected()
            except (LinkFailed, ConfigError, WireError) as error:
                self._failures.add(str(error))
                self._fail(str(error))
            await asyncio.sleep(RETRY_S)

    @asynccontextmanager
    async def open(self, request: PageRequest, seconds: float) -> AsyncIterator[Answer]:
        """Send a request and wait for its answer to begin. Raises HostUnreachable without one in these seconds."""
        if self._client is None or self.problem is not None:
            raise HostUnreachable(self.problem or "not connected")
        if len(self._open) >= MAX_OPEN:
            raise HostUnreachable(f"{MAX_OPEN} requests to it are open")
        number = next(self._numbers)
        queue = self._open[number] = asyncio.Queue[_Received | HostUnreachable]()
        try:
            self._send(_ask(number, request))
            try:
                async with asyncio.timeout(seconds):
                    first = await _next(queue)
            except TimeoutError:
                raise HostUnreachable(f"no answer within {seconds:g} s") from None
            yield Answer(first.piece.status or 502, first.piece.headers or {}, self._chunks(first, queue))
        finally:
            if self._open.pop(number, None) is not None and self._client is not None:
                self._client.send(Stop(id=number).model_dump_json().encode())
                self._wake.set()

    async def _chunks(
        self, first: _Received, queue: asyncio.Queue[_Received | HostUnreachable]
    ) -> AsyncIterator[Chunk]:
        received = first
        while True:
            if not received.piece.more:
                self._open.pop(received.piece.id, None)
            yield Chunk(received.body, received.piece.more)
            if not received.piece.more:
                return
            self._send(Next(id=received.piece.id))
            received = await _next(queue)
            if received.piece.status is not None:
                self._open.pop(received.piece.id, None)
                raise HostUnreachable(received.body.decode("utf-8", "replace"))

    async def _connected(self) -> None:
        """Receive answers until the connection fails. Raises LinkFailed, ConfigError and WireError."""
        with CurveClient(self._keys, self.name, self._address, self._port, MAX_ANSWER_BYTES, MAX_OPEN) as client:
            self._client = client
            try:
                with self._wake.watching([client.socket, client.monitor]):
                    await self._receive(client)
            finally:
                self._client = None

    async def _receive(self, client: CurveClient) -> None:
        while True:
            messages = client.receive()
            for message in messages:
                self._on_message(message)
            if client.is_complete:
                self.problem = None
            elif self.problem is not None:
                self.problem = f"no connection to {self._address} port {self._port}"
            await self._wake.wait(0 if messages else TICK_S)

    def _on_message(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            raise WireError("a message of another form")
        piece = decode_json(PIECES, parts[0])
        if (queue := self._open.get(piece.id)) is not None:
            queue.put_nowait(_Received(piece, parts[1]))

    def _send(self, message: BaseModel) -> None:
        body = message.model_dump_json().encode()
        if len(body) > MAX_ASK_BYTES:
            raise HostUnreachable("the request is too long")
        if self._client is None or not self._client.send(body):
            raise HostUnreachable(self.problem or "no connection")
        self._wake.set()

    def _fail(self, reason: str) -> None:
        self.problem = reason
        for queue in self._open.values():
            queue.put_nowait(HostUnreachable(reason))
        self._open.clear()


async def _next(queue: asyncio.Queue[_Received | HostUnreachable]) -> _Received:
    found = await queue.get()
    if isinstance(found, HostUnreachable):
        raise found
    return found


def _ask(number: int, request: PageRequest) -> Ask:
    return Ask(
        id=number,
        method=request.method,
        path=request.path,
        query=request.query,
        headers=dict(request.headers),
        body=request.body.decode("utf-8", "replace"),
        by=request.access.name,
        scopes=sorted(request.access.scopes),
    )
