"""Requests of the page as data, and their answers by the application of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from streamer.core.errors import StreamerError
from streamer.core.reasons import internal_error
from streamer.web.auth import ACCESS, Access

Method = Literal["GET", "POST"]
REQUEST_HEADERS = ("content-type", "if-none-match", "last-event-id")
"""Headers that a request to another host has; all others stay on the host of the page."""
ANSWER_HEADERS = ("content-type", "cache-control", "etag", "retry-after", "x-accel-buffering")
"""Headers that an answer of another host has."""
MAX_BODY_BYTES = 64 << 20
"""Largest answer that is read as a whole."""


class HostUnreachable(StreamerError):
    """A host gave no answer. Go on without it, and name it in the answer."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request to the page or its API, whose sender is known."""

    method: Method
    path: str
    """Decoded path."""
    query: str
    headers: Mapping[str, str]
    """Those of `REQUEST_HEADERS`, in lower case."""
    body: bytes
    access: Access

    @classmethod
    def of(cls, scope: Scope, query: str, body: bytes = b"") -> PageRequest:
        """Return the request of an ASGI scope that `AuthMiddleware` has let through, with another query."""
        given = Headers(scope=scope)
        headers = {name: given[name] for name in REQUEST_HEADERS if name in given}
        return cls(scope["method"], scope["path"], query, headers, body, scope["state"][ACCESS])


class Chunk(NamedTuple):
    """A piece of the body of an answer."""

    body: bytes
    more: bool
    """False: the last one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request, whose body arrives in pieces. The next piece is made when the last one was taken."""

    status: int
    headers: Mapping[str, str]
    """Those of `ANSWER_HEADERS`, in lower case."""
    chunks: AsyncIterator[Chunk]

    async def read(self) -> bytes:
        """Return the whole body. Raises HostUnreachable if it is too large."""
        body = bytearray()
        async for chunk in self.chunks:
            body += chunk.body
            if len(body) > MAX_BODY_BYTES:
                raise HostUnreachable(f"its answer is larger than {MAX_BODY_BYTES >> 20} MB")
        return bytes(body)


@asynccontextmanager
async def answered_here(app: ASGIApp, request: PageRequest) -> AsyncIterator[Answer]:
    """Answer a request with an ASGI application, which is cancelled when the context ends."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue(1)
    is_given = False

    async def receive() -> Message:
        nonlocal is_given
        if is_given:
            await asyncio.get_running_loop().create_future()  # this client never disconnects, the task is cancelled
        is_given = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def run() -> None:
        try:
            await app(_scope(request), receive, messages.put)
        except Exception as error:  # a bug in a handler; the application has answered 500 if it still could
            internal_error(error, "page")
        await messages.put(None)

    async def chunks() -> AsyncIterator[Chunk]:
        while (message := await messages.get()) is not None:
            more = message.get("more_body", False)
            yield Chunk(message.get("body", b""), more)
            if not more:
                return
        raise HostUnreachable("its answer broke off, because its page has an internal error: see its log")

    task = asyncio.create_task(run())
    try:
        start = await messages.get()
        if start is None:
            raise HostUnreachable("its page has an internal error: see its log")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        kept = {name: headers[name] for name in ANSWER_HEADERS if name in headers}
        yield Answer(start["status"], kept, chunks())
    finally:
        task.cancel()


def _scope(request: PageRequest) -> Scope:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "state": {ACCESS: request.access},
    }
