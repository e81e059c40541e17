"""Asks the hosts of a cluster, this one included, and knows which of them runs a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeVar

from fastapi.responses import Response
from starlette.types import ASGIApp

from streamer.web.auth import Access
from streamer.web.hosts.merge import Json, merge_streams
from streamer.web.hosts.remote import RemoteHost
from streamer.web.hosts.request import Answer, HostUnreachable, PageRequest, answered_here

PATIENCE_S = 0.5
"""Time that the state of the streams waits for another host; then its last answer is used."""
STALE_S = 5.0
"""Age above which the last answer of a host is not used."""
FRESH_S = 0.3
"""Age below which a host is not asked again for its state."""
OWNERS_S = 3.0
"""Age above which the hosts of the streams are found again before one is used."""
_STATE = PageRequest("GET", "/api/streams", "", {}, b"", Access("page", frozenset({"view"})))

T = TypeVar("T")


class Whole(NamedTuple):
    """An answer with its whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def response(self) -> Response:
        return Response(self.body, self.status, dict(self.headers))

    def reason(self) -> str:
        """Return why the request was refused."""
        try:
            return str(json.loads(self.body)["detail"])
        except (ValueError, KeyError, TypeError):
            return f"status {self.status}"


class Found(NamedTuple):
    """The answers of several hosts to a request."""

    answers: dict[str, Whole]
    """Answers in the order of the hosts, that of this one first."""
    problems: dict[str, str]
    """Reasons of the hosts that gave none."""


class _Newest:
    """The newest state of another host. It is asked for once at a time, however many pages are open."""

    def __init__(self, host: RemoteHost) -> None:
        self._host = host
        self._task: asyncio.Task[None] | None = None
        self._body: Json = {}
        self._at = float("-inf")
        self._problem = "no answer yet"

    async def get(self) -> Json:
        """Return the state after `PATIENCE_S` at the latest. Raises HostUnreachable."""
        now = asyncio.get_running_loop().time
        if self._host.problem is None and now() - self._at > FRESH_S:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._ask())
            await asyncio.wait({self._task}, timeout=PATIENCE_S)
        if problem := self._host.problem or (self._problem if now() - self._at > STALE_S else None):
            raise HostUnreachable(problem)
        return self._body

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(STALE_S), self._host.open(_STATE, STALE_S) as answer:
                if answer.status != 200:
                    raise HostUnreachable(f"status {answer.status}")
                self._body = json.loads(await answer.read())
        except TimeoutError:
            self._problem = f"no answer within {STALE_S:g} s"
        except (HostUnreachable, ValueError) as error:
            self._problem = str(error)
        else:
            self._at = asyncio.get_running_loop().time()


class Hosts:
    """The hosts of the cluster. Belongs to the event loop."""

    def __init__(self, app: ASGIApp, name: str, remotes: Collection[RemoteHost]) -> None:
        """`app`: answers for this host, which is called `name`."""
        self.name = name
        self.names = [name, *(one.name for one in remotes)]
        """All hosts, this one first."""
        self._app = app
        self._remotes = {one.name: one for one in remotes}
        self._newest = {one.name: _Newest(one) for one in remotes}
        self._owners: dict[str, str] = {}
        """Host of each stream that runs on one in reach."""
        self._owners_at = float("-inf")

    def open(self, host: str, request: PageRequest, seconds: float) -> AbstractAsyncContextManager[Answer]:
        """Ask a host. The context raises HostUnreachable if its answer does not begin in these seconds."""
        if host == self.name:
            return answered_here(self._app, request)
        return self._remotes[host].open(request, seconds)

    async def ask(self, host: str, request: PageRequest, seconds: float) -> Whole:
        """Return the whole answer of a host. Raises HostUnreachable without one in these seconds."""
        try:
            async with asyncio.timeout(seconds), self.open(host, request, seconds) as answer:
                return Whole(answer.status, answer.headers, await answer.read())
        except TimeoutError:
            raise HostUnreachable(f"no answer within {seconds:g} s") from None

    async def ask_all(self, requests: Mapping[str, PageRequest], seconds: float) -> Found:
        """Return the answers of hosts, each to its own request."""
        return Found(*await _all({host: self.ask(host, request, seconds) for host, request in requests.items()}))

    async def streams(self) -> Json:
        """Return the merged state of all hosts. Raises HostUnreachable if that of this host is missing."""
        own, (others, problems) = await asyncio.gather(
            self.ask(self.name, _STATE, STALE_S), _all({host: newest.get() for host, newest in self._newest.items()})
        )
        merged = merge_streams({self.name: json.loads(own.body), **others}, problems, self._owners)
        self._owners = {stream["name"]: stream["host"] for stream in merged["streams"] if stream["host"] is not None}
        self._owners_at = asyncio.get_running_loop().time()
        return merged

    async def owner(self, stream: str) -> str:
        """Return the host that runs a stream; this one if none in reach does."""
        if asyncio.get_running_loop().time() - self._owners_at > OWNERS_S:
            await self.streams()
        return self._owners.get(stream, self.name)


async def _all(calls: Mapping[str, Awaitable[T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Return the results by host, and the reasons of the hosts that are not reached."""

    async def result(call: Awaitable[T]) -> T | HostUnreachable:
        try:
            return await call
        except HostUnreachable as error:
            return error

    results = dict(zip(calls, await asyncio.gather(*map(result, calls.values())), strict=True))
    problems = {host: str(one) for host, one in results.items() if isinstance(one, HostUnreachable)}
    return {host: one for host, one in results.items() if not isinstance(one, HostUnreachable)}, problems
