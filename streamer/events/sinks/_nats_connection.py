"""A connection to NATS JetStream. The client is nats-py; it runs in an event loop of its own during each call."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import PubAck, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from streamer.core.errors import SinkError, SinkRefused
from streamer.events.sinks._base import SinkContext, SinkProgress
from streamer.events.sinks._connected import CONNECT_S, ConnectedSink, Settled
from streamer.events.sinks._event_loop import EventLoop, look_up_within, resolve_configured, try_each
from streamer.events.sinks._nats_subjects import event_subject
from streamer.events.sinks.nats import Nats
from streamer.types import Sink

PORT = 4222
MAX_AGE_S = 7 * 86400.0
"""Age of the oldest event in a stream that the sink creates, as in the ledger."""
_CLOSE_S, _ABANDON_S = 1.0, 0.2
_HEADER_BYTES = 256
"""Room for the headers of a message, which count towards the limit of the server."""
_TOO_LARGE = 10054
_CAUSES = {
    10023: "the server has no memory or disk left for the stream",
    10039: "JetStream is not enabled for this account",
    10047: "the storage of the account is full: raise its limit or delete messages",
    10059: "the stream does not exist: create it, or set `create: true`",
    10060: "another stream than `stream` has the subject: change `stream` or `subject`",
    10065: "another stream has the subjects already: set `stream` to its name",
    10076: "JetStream is not enabled on the server",
    10077: "the stream cannot store it: it is full, or the disk of the server is",
}
"""Causes by JetStream's number of the error."""


def nats_sink(settings: Nats, context: SinkContext, progress: SinkProgress) -> Sink:
    return ConnectedSink(lambda: _Connection(settings, context.agent), settings.in_flight, progress)


class _Client(Client):
    """The client, which refuses to send a password before TLS, also if the server says that it needs none."""

    wants_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.wants_tls != bool(info.get("tls_required")):
            what = "does not use TLS: use nats://" if self.wants_tls else "requires TLS: use tls://"
            raise SinkError(f"the server {what}")
        info.pop("connect_urls", None)  # the sink connects to the server of the config only
        await super()._process_info(info, initial_connection)


class _Connection:
    def __init__(self, settings: Nats, agent: str) -> None:
        self._settings = settings
        url = urlsplit(settings.url.reveal())
        self._host, self._port = url.hostname or "", url.port or PORT
        self._loop = EventLoop(f"NATS server {self._host}:{self._port}", _describe)
        self._client: _Client | None = None
        self._jetstream: JetStreamContext
        self._lost: asyncio.Future[None]
        self._has_published = False  # the client subscribes to answers with the first message, which goes alone
        try:
            self._loop.run("no connection", CONNECT_S, self._connect(agent))
            if settings.create:
                self._loop.run("the stream cannot be created", CONNECT_S, self._create_stream())
        except BaseException:
            self.close()
            raise

    def deliver(self, events: Sequence[tuple[int, bytes]], window: int) -> Iterator[Settled]:
        waiting, unacked = deque(events), deque[tuple[int, asyncio.Task[PubAck]]]()
        try:
            while waiting or unacked:
                step = self._publish(waiting, unacked, window)
                yield from self._loop.run("no acknowledgement", self._settings.timeout, step)
        finally:
            for _, ack in unacked:
                ack.cancel()

    def check(self) -> None:
        self._loop.run("no answer to a ping", self._settings.timeout, self._ping())

    def close(self) -> None:
        if self._client is not None:
            with suppress(SinkError):
                self._loop.run("not closed", _CLOSE_S, self._client.close())
        self._loop.close()

    async def _connect(self, agent: str) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        self._lost.add_done_callback(lambda lost: lost.exception())
        addresses = await look_up_within(CONNECT_S, resolve_configured, self._host)
        self._client = await try_each(addresses, CONNECT_S, lambda address: self._connect_to(address, agent))
        self._jetstream = self._client.jetstream(timeout=self._settings.timeout)

    async def _connect_to(self, address: str, agent: str) -> _Client:
        settings = self._settings
        url = urlsplit(settings.url.reveal())
        user, password = (None if text is None else unquote(text) for text in (url.username, url.password))
        is_tls, has_jwt = settings.url.scheme == "tls", settings.has_jwt()
        client = _Client()
        client.wants_tls = is_tls
        try:
            await client.connect(
                f"nats://[{address}]:{self._port}" if ":" in address else f"nats://{address}:{self._port}",
                name=f"streamer-{agent}-{settings.name}",
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,
                connect_timeout=CONNECT_S,  # type: ignore[arg-type]
                tls=settings.tls_context() if is_tls else None,
                tls_hostname=self._host,
                user=user if password is not None else None,
                password=password,
                token=user if password is None else None,
                user_credentials=settings.credentials if has_jwt else None,
                nkeys_seed=None if has_jwt or settings.credentials is None else str(settings.credentials),
            )
        except BaseException:
            with suppress(Exception):  # after a failed handshake the client waits for a connection that it has replaced
                async with asyncio.timeout(_ABANDON_S):
                    await client.close()
            raise
        return client

    async def _create_stream(self) -> None:
        name = self._settings.stream or ""
        try:
            await self._jetstream.stream_info(name)
        except NotFoundError:
            config = StreamConfig(
                name=name, subjects=[f"{self._settings.subject}.>"], storage=StorageType.FILE, max_age=MAX_AGE_S
            )
            await self._jetstream.add_stream(config)

    async def _publish(
        self, waiting: deque[tuple[int, bytes]], unacked: deque[tuple[int, asyncio.Task[PubAck]]], window: int
    ) -> list[Settled]:
        """Fill the window, wait for the oldest acknowledgement, and return all that have arrived in order."""
        while waiting and len(unacked) < (window if self._has_published else 1):
            position, body = waiting.popleft()
            unacked.append((position, asyncio.create_task(self._send(body))))
        oldest = unacked[0][1]
        either: set[asyncio.Future[Any]] = {oldest, self._lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        settled: list[Settled] = []
        while unacked and unacked[0][1].done():
            position, ack = unacked[0]
            refusal = None
            try:
                ack.result()
            except SinkRefused as error:
                refusal = str(error)
            except APIError as error:
                if error.err_code != _TOO_LARGE:
                    if settled:  # they are stored first, the error is found again in the next step
                        return settled
                    raise
                refusal = "larger than the stream accepts"
            except Exception:
                if settled:
                    return settled
                raise
            settled.append(Settled(position, refusal))
            unacked.popleft()
            self._has_published = True
        if not settled:
            self._lost.result()
            raise SinkError("the connection was lost")
        return settled

    async def _send(self, body: bytes) -> PubAck:
        assert self._client is not None
        event, limit = json.loads(body), self._client.max_payload
        if len(body) + _HEADER_BYTES > limit:
            raise SinkRefused(f"larger than {limit} bytes, the limit of the server")
        # Not `publish_async`: the client loses the errors of its acknowledgements.
        return await self._jetstream.publish(
            event_subject(self._settings.subject, event["source"], event["subject"]),
            body,
            self._settings.timeout,
            stream=self._settings.stream,
            headers={"Nats-Msg-Id": event["id"], "content-type": "application/cloudevents+json"},
        )

    async def _ping(self) -> None:
        assert self._client is not None
        await self._client.flush(self._settings.timeout)  # type: ignore[arg-type]

    async def _on_error(self, error: Exception) -> None:
        """Called by the client. Raising ends an attempt to connect, which it would repeat."""
        if self._client is None:
            raise error
        self._lose(error)

    async def _on_closed(self) -> None:
        self._lose(SinkError("the server closed the connection"))

    def _lose(self, error: Exception) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)


def _describe(error: Exception) -> str | None:
    """Return why an error of the client happened. The text of the server is not shown."""
    match error:
        case OSError():  # of TLS too, whose errors are ValueErrors
            return None
        case APIError(err_code=int(code)):
            return _CAUSES.get(code, f"JetStream reports error {code}")
        case NoStreamResponseError():
            return "no JetStream stream has the subject: create one, or set `stream` and `create: true`"
        case NatsError():
            text = str(error).lower()
            if "permissions violation" in text:
                return "the user may not publish on the subject, or not subscribe to `_INBOX.>`"
            if "authorization" in text or "authentication" in text:
                return "it refuses the user: check user and password or token in `url`, or `credentials`"
            if "maximum connections" in text:
                return "it has its maximum number of connections"
    if isinstance(error, ValueError | LookupError | NatsError):
        return "its answer is not valid, or the connection broke off"
    return None
