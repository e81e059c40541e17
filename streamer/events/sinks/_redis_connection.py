"""A connection to Redis. The client is redis-py; it runs in an event loop of its own during each call."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterError,
    ExecAbortError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from streamer.core.errors import SinkError
from streamer.events.sinks._base import SinkContext, SinkProgress
from streamer.events.sinks._connected import CONNECT_S, ConnectedSink, Settled
from streamer.events.sinks._event_loop import EventLoop, look_up_within, resolve_configured, try_each
from streamer.events.sinks.redis import Redis
from streamer.types import Sink

PORT = 6379
_CLOSE_S = 1.0
_SCRIPT = """\
local known = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do known[id] = true end
for i = 2, #ARGV, 3 do
  if not known[ARGV[i]] then
    local command = {'XADD', KEYS[1]}
    if ARGV[1] ~= '' then
      for _, word in ipairs({'MAXLEN', '~', ARGV[1]}) do table.insert(command, word) end
    end
    for _, word in ipairs({'*', 'id', ARGV[i], 'source', ARGV[i + 1], 'event', ARGV[i + 2]}) do
      table.insert(command, word)
    end
    redis.call(unpack(command))
    redis.call('LPUSH', KEYS[2], ARGV[i])
  end
end
redis.call('LTRIM', KEYS[2], 0, 999)
return 'OK'
"""
"""Appends the events that are not known yet. 1000 ids are more than one batch of events and dead letters has."""
_TYPED_CAUSES: tuple[tuple[type[RedisError], str], ...] = (
    (AuthenticationError, "it refuses the user, or needs one: check user and password in `url`"),
    (NoPermissionError, "the user may not use this stream or command"),
    (ReadOnlyError, "it is a replica, which takes no events: set `url` to the primary"),
    (OutOfMemoryError, "its memory is full: raise `maxmemory`, or limit the stream with `max_entries`"),
    (BusyLoadingError, "it still loads its data"),
    (MovedError, "it belongs to a Redis cluster, which is not supported"),
    (ClusterError, "it belongs to a Redis cluster, which is not supported"),
    (InvalidResponse, "its answer is not valid"),
)
_CODED_CAUSES = {
    "MISCONF": "it cannot save to its disk, which may be full",
    "WRONGTYPE": "the key of the stream holds something else: change `stream`",
    "NOREPLICAS": "too few replicas are connected",
    "CROSSSLOT": "it belongs to a Redis cluster, which is not supported",
    "DB index is out of range": "it has no database of this number",
}
"""Causes by the first words of the server's text, which itself is not shown."""


def redis_sink(settings: Redis, context: SinkContext, progress: SinkProgress) -> Sink:
    return ConnectedSink(lambda: _Connection(settings, context.agent), settings.in_flight, progress)


class _TcpConnection(Connection):
    """Connects to an address. The check of a certificate uses the host's name."""

    def __init__(self, tls: ssl.SSLContext | None, name: str, **keys: Any) -> None:
        super().__init__(**keys)
        self._tls, self._name = tls, name

    def _connection_arguments(self) -> Mapping[str, Any]:
        plain = super()._connection_arguments()
        return plain if self._tls is None else {**plain, "ssl": self._tls, "server_hostname": self._name}


class _Connection:
    def __init__(self, settings: Redis, agent: str) -> None:
        self._settings = settings
        self._memory = f"{settings.stream}:{agent}:{settings.name}"
        url = urlsplit(settings.url.reveal())
        self._host, self._port = url.hostname or "", url.port or PORT
        server = f"{self._host}:{self._port}" if settings.socket is None else str(settings.socket)
        self._loop = EventLoop(f"Redis server {server}", _describe)
        self._redis: AbstractConnection | None = None
        try:
            self._loop.run("no connection", CONNECT_S, self._connect(agent))
        except BaseException:
            self.close()
            raise

    def deliver(self, events: Sequence[tuple[int, bytes]], window: int) -> Iterator[Settled]:
        append = self._append_new if self._settings.skip_repeated else self._append
        for first in range(0, len(events), window):
            group = events[first : first + window]
            self._loop.run("no answer", self._settings.timeout, append([body for _, body in group]))
            yield from (Settled(position) for position, _ in group)

    def check(self) -> None:
        self._loop.run("no answer to a ping", self._settings.timeout, self._call("PING"))

    def close(self) -> None:
        if self._redis is not None:
            with suppress(SinkError):
                self._loop.run("not closed", _CLOSE_S, self._redis.disconnect(nowait=True))
            self._redis = None
        self._loop.close()

    async def _connect(self, agent: str) -> None:
        settings = self._settings
        url = urlsplit(settings.url.reveal())
        keys: dict[str, Any] = {
            "db": int(url.path.strip("/") or 0),
            "username": unquote(url.username) if url.username else None,
            "password": unquote(url.password) if url.password else None,
            "client_name": f"streamer-{agent}-{settings.name}",
            "driver_info": None,
            "protocol": 2,
            "socket_timeout": settings.timeout,
            "socket_connect_timeout": CONNECT_S,
        }
        if settings.socket is not None:
            self._redis = await _connected(UnixDomainSocketConnection(path=str(settings.socket), **keys))
            return
        tls = settings.tls_context() if settings.url.scheme == "rediss" else None
        addresses = await look_up_within(CONNECT_S, resolve_configured, self._host)
        self._redis = await try_each(
            addresses,
            CONNECT_S,
            lambda address: _connected(_TcpConnection(tls, self._host, host=address, port=self._port, **keys)),
        )

    async def _append(self, bodies: Sequence[bytes]) -> None:
        """Append all events in one transaction, or none."""
        limit = [] if self._settings.max_entries is None else ["MAXLEN", "~", self._settings.max_entries]
        entries = [["XADD", self._settings.stream, *limit, "*", *_fields(body)] for body in bodies]
        await self._call("MULTI", *entries, "EXEC")

    async def _append_new(self, bodies: Sequence[bytes]) -> None:
        values = [word for body in bodies for word in _fields(body)[1::2]]
        limit = self._settings.max_entries or ""
        await self._call(["EVAL", _SCRIPT, 2, self._settings.stream, self._memory, limit, *values])

    async def _call(self, *commands: str | Sequence[Any]) -> None:
        """Send commands at once and read all answers. Raises the first error."""
        assert self._redis is not None
        words = [[one] if isinstance(one, str) else one for one in commands]
        await self._redis.send_packed_command(self._redis.pack_commands(words), check_health=False)
        errors: list[ResponseError] = []
        for _ in commands:
            try:
                answer = await self._redis.read_response()
            except ResponseError as error:
                errors.append(error)
            else:
                errors += [one for one in answer if isinstance(one, ResponseError)] if isinstance(answer, list) else []
        if errors:
            raise next((one for one in errors if not isinstance(one, ExecAbortError)), errors[0])


async def _connected(connection: AbstractConnection) -> AbstractConnection:
    try:
        await connection.connect()
    except BaseException:
        with suppress(Exception):
            await connection.disconnect(nowait=True)
        raise
    return connection


def _fields(body: bytes) -> list[str | bytes]:
    event = json.loads(body)
    return ["id", event["id"], "source", event["source"], "event", body]


def _describe(error: Exception) -> str | None:
    """Return why an error of the client happened. The text of the server is not shown."""
    for kind, cause in _TYPED_CAUSES:
        if isinstance(error, kind):
            return cause
    if isinstance(error, ResponseError):
        found = (cause for word, cause in _CODED_CAUSES.items() if word in str(error))
        return next(found, "it answers with an error")
    if isinstance(error, ValueError | LookupError | TypeError | AttributeError) and not isinstance(error, OSError):
        return "its answer is not valid"
    return None
