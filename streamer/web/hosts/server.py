"""Answers the requests of the web processes of other hosts with the application of this one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.types import ASGIApp

from streamer.bus.curve import CurveServer, PeerMessage
from streamer.bus.host_keys import HostKeys
from streamer.core.errors import ConfigError, WireError
from streamer.core.ipc import decode_json
from streamer.core.logs import RareLog
from streamer.core.reasons import internal_error
from streamer.web.auth import Access
from streamer.web.hosts.protocol import MAX_ASK_BYTES, MAX_OPEN, MESSAGES, PIECE_BYTES, Ask, Next, Piece, Stop
from streamer.web.hosts.request import REQUEST_HEADERS, Answer, Chunk, HostUnreachable, PageRequest, answered_here
from streamer.web.hosts.wake import Wake

log = logging.getLogger(__name__)

TICK_S = 1.0
CONFIRM_S = 15.0
"""Longest time until a piece is confirmed. A browser that reads nothing is disconnected after 5 s on its own host."""
MAX_SENDER = 64
_READ = re.compile(
    r"/api/(streams|events|events/live|incidents|rules|rules/state|snapshot/[^/]+\.jpg|snapshots/[^/]+\.jpg)"
    r"|/live/[^/]+\.mjpeg|/hls/[^/]+/[^/]+"
)
_COMMAND = re.compile(r"/api/rules/(mode|snooze|ack|feedback)")
"""Paths that other hosts may ask for. Notifications, health and metrics are those of their host."""

_Key = tuple[bytes, int]
"""Connection, and id of the request."""


@dataclass(eq=False, slots=True)
class _Open:
    """A request that is being answered."""

    peer: str
    task: asyncio.Task[None] | None = None
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


class HostServer:
    """The served socket. `run` serves it and closes it at its end. Belongs to the event loop."""

    def __init__(
        self, keys: HostKeys, hosts: Collection[str], address: str, port: int, app: ASGIApp, refused: Counter[str]
    ) -> None:
        """`hosts`: names of the hosts that may ask. `app`: has no access control of its own.

        `refused`: number of refused connections and requests by cause, which it counts. Raises ConfigError if there is
        no key, or the address cannot be used.
        """
        self._keys, self._hosts, self._place, self._app = keys, frozenset(hosts), (address, port), app
        self._server: CurveServer | None = self._listen()
        self._open: dict[_Key, _Open] = {}
        self._wake = Wake()
        self._refused = refused
        self._refusals = RareLog(log, "connection or request of another host refused %s: %s", noun="time")

    async def run(self) -> None:
        """Answer until cancelled. With a new key of this host all connections are made again."""
        while True:
            if self._server is None:
                await asyncio.sleep(TICK_S)
                self._reopen()
                continue
            try:
                with self._wake.watching(self._server.sockets()):
                    await self._serve(self._server)
            finally:
                self._close()

    def _close(self) -> None:
        """End all answers and connections."""
        for one in self._open.values():
            if one.task is not None:
                one.task.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, server: CurveServer) -> None:
        """Handle what arrives until this host has another key."""
        while not server.is_key_replaced():
            messages = server.receive()
            for message in messages:
                try:
                    self._handle(server, message)
                except WireError as error:
                    self._refuse(f"{message.peer} sent an invalid message: {error}")
            for reason in server.take_refusals():
                self._refuse(reason)
            await self._wake.wait(0 if messages else TICK_S)

    def _listen(self) -> CurveServer:
        return CurveServer(self._keys, *self._place, MAX_ASK_BYTES, MAX_OPEN)

    def _reopen(self) -> None:
        try:
            self._server = self._listen()
        except ConfigError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._refused["host"] += 1
        self._refusals.add(reason)

    def _handle(self, server: CurveServer, message: PeerMessage) -> None:
        match decode_json(MESSAGES, message.body):
            case Ask() as ask:
                self._on_ask(server, message, ask)
            case Next(id=number):
                if one := self._open.get((message.route, number)):
                    one.confirmed.set()
            case Stop(id=number):
                if (one := self._open.pop((message.route, number), None)) and one.task is not None:
                    one.task.cancel()

    def _on_ask(self, server: CurveServer, message: PeerMessage, ask: Ask) -> None:
        key = message.route, ask.id
        if refused := self._refusal(message.peer, key, ask):
            status, text = refused
            self._refuse(f"{message.peer}: {ask.method} {ask.path[:100]}: {text}")
            self._send(server, key, Piece(id=ask.id, more=False, status=status, headers={}), text.encode())
            return
        for (route, _), other in self._open.items():
            if other.peer == message.peer and route != message.route and other.task is not None:
                other.task.cancel()  # a host has one connection, so the one before has ended
        one = self._open[key] = _Open(message.peer)
        one.task = asyncio.create_task(self._answer(server, key, one, ask))

    def _refusal(self, peer: str, key: _Key, ask: Ask) -> tuple[HTTPStatus, str] | None:
        """Return why a request is refused."""
        is_command = ask.method == "POST"
        needed = "command" if is_command else "view"
        if peer not in self._hosts:
            return HTTPStatus.FORBIDDEN, "the host is none of `cluster.hosts` here that run streams"
        if needed not in ask.scopes:
            return HTTPStatus.FORBIDDEN, f"The token {ask.by[:MAX_SENDER]} has no permission to {needed}"
        if not (_COMMAND if is_command else _READ).fullmatch(ask.path):
            return HTTPStatus.NOT_FOUND, "the address is none that other hosts may ask for"
        if key in self._open or Counter(one.peer for one in self._open.values())[peer] >= MAX_OPEN:
            return HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_OPEN} requests of the host are open"
        return None

    async def _answer(self, server: CurveServer, key: _Key, one: _Open, ask: Ask) -> None:
        headers = {name: ask.headers[name] for name in REQUEST_HEADERS if name in ask.headers}
        access = Access(f"{ask.by}@{one.peer}"[:MAX_SENDER], frozenset(ask.scopes))
        request = PageRequest(ask.method, ask.path, ask.query, headers, ask.body.encode(), access)
        try:
            async with answered_here(self._app, request) as answer:
                await self._send_answer(server, key, one, answer)
        except HostUnreachable as error:
            self._send(server, key, Piece(id=ask.id, more=False, status=500, headers={}), str(error).encode())
        except TimeoutError:
            pass  # the other host has gone, or reads nothing
        except Exception as error:  # a bug, which concerns this request only
            internal_error(error, "page")
        finally:
            self._open.pop(key, None)

    async def _send_answer(self, server: CurveServer, key: _Key, one: _Open, answer: Answer) -> None:
        head = Piece(id=key[1], more=True, status=answer.status, headers=dict(answer.headers))
        async for body, more in _pieces(answer.chunks):
            one.confirmed.clear()
            self._send(server, key, head.model_copy(update={"more": more}), body)
            head = Piece(id=key[1], more=True)
            if more:
                async with asyncio.timeout(CONFIRM_S):
                    await one.confirmed.wait()

    def _send(self, server: CurveServer, key: _Key, piece: Piece, body: bytes) -> None:
        if server is self._server:
            server.send(key[0], [piece.model_dump_json(exclude_none=True).encode(), body])
            self._wake.set()


async def _pieces(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Divide chunks that are too large."""
    async for body, more in chunks:
        for start in range(0, len(body) or 1, PIECE_BYTES):
            end = start + PIECE_BYTES
            yield Chunk(body[start:end], more or end < len(body))
