"""The page and its API for all hosts of a cluster: an ASGI application in front of that of this host.

Lists are merged from the answers of all hosts. Pictures of a stream come from the host that runs it, and a command goes
to the hosts that it concerns. `?host=NAME` sends any of these requests to one host.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from streamer.video.outputs.base import ViewId
from streamer.web.auth import read_body
from streamer.web.connections import CONNECTION
from streamer.web.hosts.hosts import Found, Hosts, Whole
from streamer.web.hosts.live import BEGIN_S, follow, request_of
from streamer.web.hosts.merge import (
    Json,
    merge_events,
    merge_incidents,
    merge_rules,
    merge_rules_state,
    not_reached,
    read_positions,
)
from streamer.web.hosts.request import Answer, HostUnreachable, PageRequest
from streamer.web.mjpeg import UNBUFFERED

LIST_S = 2.0
"""Time for the lists of a host; the page waits for 5 s."""
SEARCH_S = 7.0
"""Time for events and pictures of a host: a search alone takes up to 5 s."""
COMMAND_S = 6.0
"""Time for a command at a host: its rules process has 5 s."""
FOR_ALL = ("/api/rules/mode", "/api/rules/snooze")
"""Commands for all hosts."""
COMMANDS = (*FOR_ALL, "/api/rules/ack", "/api/rules/feedback")
"""These, and commands about an incident of one host."""
LIVE = "/api/events/live"
DEFAULT_LIMIT = 100
_STORED = "/api/snapshots/"
_Merge = Callable[[dict[str, Json], dict[str, str]], Json]


class HostsPage:
    """The application of all hosts. Belongs to the event loop."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        """`app`: that of this host, without access control."""
        self._app, self._hosts = app, hosts
        self._lists: dict[str, Callable[[PageRequest, dict[str, str]], Awaitable[Response]]] = {
            "/api/streams": self._streams,
            "/api/events": self._events,
            "/api/incidents": self._incidents,
            "/api/rules": lambda request, _: self._list(request, merge_rules),
            "/api/rules/state": lambda request, _: self._list(request, merge_rules_state),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        host = given.pop("host", None)
        try:
            response = await self._respond(host, given, scope, receive, send)
        except HostUnreachable as error:
            response = JSONResponse({"detail": str(error)}, 503, {"Retry-After": "2"})
        if response is not None:
            await response(scope, receive, send)

    async def _respond(
        self, host: str | None, given: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """Return the response to a request, None if it was sent already. `given`: its query without `host`."""
        path, is_command = scope["path"], scope["method"] == "POST"
        if host is not None and host not in self._hosts.names:
            known = ", ".join(self._hosts.names)
            return JSONResponse({"detail": f"unknown host {host[:70]!r}; there are: {known}"}, 404)
        if host is None and not is_command and (stream := _stream_of(path)) is not None:
            host = await self._hosts.owner(stream)
        concerns_all = path in COMMANDS if is_command else path in (*self._lists, LIVE) or path.startswith(_STORED)
        if host == self._hosts.name or (host is None and not concerns_all):
            await self._app({**scope, "query_string": urlencode(given).encode()}, receive, send)
            return None
        request = PageRequest.of(scope, urlencode(given), await read_body(receive) if is_command else b"")
        if host is not None:
            await self._forward(host, request, scope, receive, send)
            return None
        if path == LIVE:
            return await self._live(request, given, scope, receive, send)
        if is_command:
            return await (self._command_all(request) if path in FOR_ALL else self._command_owner(request))
        if path.startswith(_STORED):
            return await self._stored(request)
        return await self._lists[path](request, given)

    async def _forward(self, host: str, request: PageRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the answer of another host on, piece by piece. Raises HostUnreachable before it has begun."""
        seconds = COMMAND_S if request.method == "POST" else SEARCH_S
        async with self._hosts.open(host, request, seconds) as answer:
            response = StreamingResponse(_bodies(answer, scope), answer.status, dict(answer.headers))
            await response(scope, receive, send)

    async def _streams(self, request: PageRequest, given: dict[str, str]) -> Response:
        return JSONResponse(await self._hosts.streams())

    async def _list(self, request: PageRequest, merge: _Merge) -> Response:
        return self._merged(await self._hosts.ask_all(dict.fromkeys(self._hosts.names, request), LIST_S), merge)

    async def _incidents(self, request: PageRequest, given: dict[str, str]) -> Response:
        return await self._list(request, lambda bodies, problems: merge_incidents(bodies, problems, _limit(given)))

    async def _events(self, request: PageRequest, given: dict[str, str]) -> Response:
        filters = {name: value for name, value in given.items() if name != "after"}
        try:
            after = read_positions(given["after"]) if "after" in given else None
        except ValueError as error:
            return JSONResponse({"detail": f"after: {error}"}, 422)
        requests = {
            host: request_of(request, filters, None if after is None else after.get(host, 0))
            for host in self._hosts.names
        }
        found = await self._hosts.ask_all(requests, SEARCH_S)
        return self._merged(found, lambda bodies, problems: merge_events(bodies, problems, after, _limit(given)))

    def _merged(self, found: Found, merge: _Merge) -> Response:
        """Return the merged answers; that of this host alone if it is a refusal. Raises HostUnreachable without it."""
        own = self._own(found)
        if own.status != HTTPStatus.OK:
            return own.response()
        good = {host: one for host, one in found.answers.items() if one.status == HTTPStatus.OK}
        refused = {host: one.reason() for host, one in found.answers.items() if host not in good}
        return JSONResponse(merge({host: json.loads(one.body) for host, one in good.items()}, found.problems | refused))

    def _own(self, found: Found) -> Whole:
        if self._hosts.name not in found.answers:
            raise HostUnreachable(found.problems[self._hosts.name])
        return found.answers[self._hosts.name]

    async def _live(
        self, request: PageRequest, given: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> Response | None:
        """Send the events of all hosts as they happen."""
        filters = {name: value for name, value in given.items() if name != "after"}
        text = request.headers.get("last-event-id") or given.get("after")
        try:
            after = {} if text is None else read_positions(text)
        except ValueError as error:
            return JSONResponse({"detail": f"after: {error}"}, 422)
        name = self._hosts.name
        async with self._hosts.open(name, request_of(request, filters, after.get(name)), BEGIN_S) as own:
            if own.status != HTTPStatus.OK:
                return Response(await own.read(), own.status, dict(own.headers))
            events = follow(self._hosts, request, filters, after, own)
            response = StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)
            await response(scope, receive, send)
        return None

    async def _stored(self, request: PageRequest) -> Response:
        """Return a stored picture, whose host is not known: this one is asked first."""
        own = await self._hosts.ask(self._hosts.name, request, SEARCH_S)
        if own.status != HTTPStatus.NOT_FOUND:
            return own.response()
        found = await self._hosts.ask_all(dict.fromkeys(self._hosts.names[1:], request), SEARCH_S)
        good = [one for one in found.answers.values() if one.status in (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED)]
        if not good and found.problems:
            raise HostUnreachable(f"no host in reach has it; {not_reached(found.problems)}")
        return good[0].response() if good else own.response()

    async def _command_all(self, request: PageRequest) -> Response:
        """Send a command to all hosts. It has failed unless all of them have carried it out."""
        found = await self._hosts.ask_all(dict.fromkeys(self._hosts.names, request), COMMAND_S)
        done = {host: one for host, one in found.answers.items() if one.status == HTTPStatus.OK}
        if not done:
            return self._own(found).response()
        refused = {host: one.reason() for host, one in found.answers.items() if host not in done}
        if _ends_snooze(request):
            refused = {}  # the others have none to end
        first = next(iter(done.values()))
        if missing := not_reached(found.problems | refused):
            detail = f"{json.loads(first.body)['done']}, but {missing}: send it again"
            return JSONResponse({"detail": detail}, 503, {"Retry-After": "5"})
        return first.response()

    async def _command_owner(self, request: PageRequest) -> Response:
        """Send a command about an incident to the hosts; the one that has the incident carries it out."""
        found = await self._hosts.ask_all(dict.fromkeys(self._hosts.names, request), COMMAND_S)
        done = [one for one in found.answers.values() if one.status == HTTPStatus.OK]
        if done:
            return done[0].response()
        own = self._own(found)
        if own.status != HTTPStatus.BAD_REQUEST:
            return own.response()
        reasons = dict.fromkeys(one.reason() for one in found.answers.values())
        missing = not_reached(found.problems)
        return JSONResponse({"detail": "; ".join([*reasons, *([missing] if missing else ())])}, 503 if missing else 400)


def _stream_of(path: str) -> str | None:
    """Return the stream whose picture a path asks for."""
    match path.split("/")[1:]:
        case ["api", "snapshot", name]:
            return name.removesuffix(".jpg")
        case ["live", name]:
            return ViewId.parse(name.removesuffix(".mjpeg")).stream
        case ["hls", name, _]:
            return ViewId.parse(name).stream
    return None


async def _bodies(answer: Answer, scope: Scope) -> AsyncIterator[bytes]:
    """Yield the pieces of an answer. If its host is lost, close the connection, so that no part looks complete."""
    try:
        async for chunk in answer.chunks:
            yield chunk.body
    except HostUnreachable:
        scope["state"][CONNECTION].transport.abort()
        await asyncio.sleep(0)  # until the server knows that the connection is closed


def _limit(given: dict[str, str]) -> int:
    """Return the limit of a query that the handler has checked, or will refuse."""
    text = given.get("limit", "")
    return int(text) if text.isascii() and text.isdigit() else DEFAULT_LIMIT


def _ends_snooze(request: PageRequest) -> bool:
    try:
        return request.path == "/api/rules/snooze" and bool(json.loads(request.body).get("off"))
    except (ValueError, AttributeError, RecursionError):
        return False
