"""Follow the events of all hosts as one stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from urllib.parse import urlencode

from streamer.web.handlers import KEEP_ALIVE_S
from streamer.web.hosts.hosts import Hosts
from streamer.web.hosts.merge import write_positions
from streamer.web.hosts.request import Answer, HostUnreachable, PageRequest

RETRY_S = 1.0
"""Pause before a host is followed again."""
BEGIN_S = 5.0
"""Time for the answer of a host to begin."""
_Item = tuple[str, int, bytes]
"""Host, position, and the lines with the event."""


def request_of(request: PageRequest, filters: Mapping[str, str], after: int | None) -> PageRequest:
    """Return the request to one host for its events after a position; None: from now on."""
    query = urlencode({**filters, **({} if after is None else {"after": after})})
    headers = {name: value for name, value in request.headers.items() if name != "last-event-id"}
    return replace(request, query=query, headers=headers)


async def follow(
    hosts: Hosts, request: PageRequest, filters: Mapping[str, str], after: Mapping[str, int], own: Answer
) -> AsyncIterator[bytes]:
    """Yield server-sent events, whose ids are the positions of all hosts. `own`: the answer of this host."""
    positions, items = dict(after), asyncio.Queue[_Item | None](1)
    tasks = [asyncio.create_task(_follow_own(hosts.name, own, items))]
    tasks += [
        asyncio.create_task(_follow_other(hosts, host, request, filters, positions, items))
        for host in hosts.names
        if host != hosts.name
    ]
    try:
        yield b"retry: 1000\n\n"
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    item = await items.get()
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            if item is None:
                return
            host, positions[host], lines = item
            yield b"id: %b\n%b\n\n" % (write_positions(positions).encode(), lines)
    finally:
        for task in tasks:
            task.cancel()


async def _follow_own(name: str, own: Answer, items: asyncio.Queue[_Item | None]) -> None:
    """Put the events of this host until its process stops, then None."""
    async for position, lines in _events(own):
        await items.put((name, position, lines))
    await items.put(None)


async def _follow_other(
    hosts: Hosts, host: str, request: PageRequest, filters: Mapping[str, str], positions: Mapping[str, int],
    items: asyncio.Queue[_Item | None],
) -> None:  # fmt: skip
    """Put the events of another host; when it is in reach again, from the last one on."""
    while True:
        try:
            async with hosts.open(host, request_of(request, filters, positions.get(host)), BEGIN_S) as answer:
                if answer.status == 200:
                    async for position, lines in _events(answer):
                        await items.put((host, position, lines))
        except HostUnreachable:
            pass  # the page shows which hosts are not reached
        await asyncio.sleep(RETRY_S)


async def _events(answer: Answer) -> AsyncIterator[tuple[int, bytes]]:
    """Yield position and data lines of each event in an answer, without comments."""
    rest = b""
    async for chunk in answer.chunks:
        *blocks, rest = (rest + chunk.body).split(b"\n\n")
        for block in blocks:
            head, _, lines = block.partition(b"\n")
            if head.startswith(b"id: "):
                yield int(head[4:]), lines
