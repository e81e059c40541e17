"""A host that is connected and does not answer: the state of the others is there, and no questions pile up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from streamer.web.auth import Access
from streamer.web.hosts.hosts import Hosts
from streamer.web.hosts.remote import RemoteHost
from streamer.web.hosts.request import Answer, HostUnreachable, PageRequest, answered_here

STATE: dict[str, Any] = {"position": 1, "devices": [], "streams": [], "rules": {"count": 0, "open": 0}}


class HungHost:
    """Is connected, and answers nothing."""

    name = "b"
    problem: str | None = None

    def __init__(self) -> None:
        self.open_now, self.most = 0, 0

    @asynccontextmanager
    async def open(self, request: PageRequest, seconds: float) -> AsyncIterator[Answer]:
        self.open_now += 1
        self.most = max(self.most, self.open_now)
        try:
            await asyncio.get_running_loop().create_future()
            yield Answer(200, {}, cast(Any, None))
        finally:
            self.open_now -= 1


def test_hung_host_delays_no_page_and_is_asked_once() -> None:
    app, hung = FastAPI(), HungHost()
    app.add_api_route("/api/streams", lambda: STATE)

    async def run() -> None:
        hosts = Hosts(app, "a", [cast(RemoteHost, hung)])
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(hosts.streams() for _ in range(20)))
        assert [one["hosts"][1]["state"] for one in found] == ["unreachable"] * 20
        assert found[0]["hosts"][0] == {"name": "a", "state": "up", "reason": None}
        assert hung.most == 1

    asyncio.run(run())


def test_answer_that_breaks_off_is_no_whole_answer() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"[1, "
        raise ZeroDivisionError

    app = FastAPI()
    app.add_api_route("/api/events", lambda: StreamingResponse(broken()))

    async def run() -> None:
        request = PageRequest("GET", "/api/events", "", {}, b"", Access("a", frozenset()))
        async with answered_here(app, request) as answer:
            with pytest.raises(HostUnreachable, match="broke off"):
                await answer.read()

    asyncio.run(run())
