"""Requests between the web processes of hosts, over real CURVE sockets; a small application stands in for the page."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from streamer.bus.host_keys import HostKeys
from streamer.web.auth import Access, access_of, read_body
from streamer.web.hosts.protocol import MAX_OPEN, PIECE_BYTES
from streamer.web.hosts.remote import RemoteHost
from streamer.web.hosts.request import HostUnreachable, PageRequest
from streamer.web.hosts.server import HostServer
from tests.support.ports import free_port

WAIT_S = 60
ALL = Access("anna", frozenset({"view", "command"}))
GET = PageRequest("GET", "/api/streams", "", {}, b"", ALL)
BIG = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"


class App:
    """Answers some of the URLs of the page."""

    def __init__(self) -> None:
        self.made, self.ended = 0, 0
        """Parts of endless answers that were made, and endless answers that have ended."""
        self.app = FastAPI()
        self.app.add_api_route("/api/streams", lambda: {"streams": []})
        self.app.add_api_route("/api/events", lambda: Response(BIG, media_type="application/json"))
        self.app.add_api_route("/api/rules/ack", self.acknowledge, methods=["POST"])
        self.app.add_api_route("/live/{view}.mjpeg", self.live)
        self.app.add_api_route("/api/snapshot/{stream}.jpg", self.fail)
        self.app.add_api_route("/metrics", lambda: {})

    async def acknowledge(self, request: Request) -> dict[str, str]:
        access, body = access_of(request.scope), await read_body(request.receive)
        return {"by": access.name, "body": body.decode(), "type": request.headers["content-type"]}

    async def live(self) -> StreamingResponse:
        return StreamingResponse(self._parts(), media_type="text/plain")

    async def fail(self) -> None:
        raise RuntimeError("a bug")

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.made += 1
                yield b"%d;" % self.made
        finally:
            self.ended += 1


class Pair:
    """Host `b`, which asks, and host `a`, which answers. Each has keys of its own."""

    def __init__(self, folder: Path, known: tuple[str, ...] = ("b",), hosts: tuple[str, ...] = ("b",)) -> None:
        """`known`: hosts whose keys `a` has. `hosts`: those in its cluster."""
        self.port, self.app = free_port(), App()
        self.refused = Counter[str]()
        self.keys = {name: HostKeys(folder / f"{name}.keys") for name in "ab"}
        self._hosts, self._pairs = hosts, {name: one.create() for name, one in self.keys.items()}
        self.keys["b"].allow("a", self._pairs["a"].public.hex())
        for name in known:
            self.keys["a"].allow(name, self._pairs["b"].public.hex())
        self.b = RemoteHost(self.keys["b"], "a", "127.0.0.1", self.port)

    def serve(self) -> asyncio.Task[None]:
        server = HostServer(self.keys["a"], self._hosts, "127.0.0.1", self.port, self.app.app, self.refused)
        return asyncio.create_task(server.run())


@asynccontextmanager
async def running(pair: Pair) -> AsyncIterator[asyncio.Task[None]]:
    """Run both ends; yield the task of the answering one."""
    tasks = [pair.serve(), asyncio.create_task(pair.b.run())]
    try:
        yield tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def becomes(condition: Callable[[], object], why: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def connected(test: Callable[[Pair], Awaitable[None]], pair: Pair) -> None:
    """Run a test once both ends are connected."""

    async def run() -> None:
        async with running(pair):
            await becomes(lambda: pair.b.problem is None, "connected")
            await test(pair)

    asyncio.run(run())


async def body(pair: Pair, request: PageRequest) -> tuple[int, bytes]:
    async with pair.b.open(request, WAIT_S) as answer:
        return answer.status, await answer.read()


def test_answers_arrive_whole(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        assert await body(pair, GET) == (200, b'{"streams":[]}')
        many = await asyncio.gather(*(body(pair, replace(GET, path="/api/events")) for _ in range(20)))
        assert many == [(200, BIG)] * 20

    connected(test, Pair(tmp_path))


def test_commands_name_token_and_host(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        headers = {"content-type": "application/json", "cookie": "secret"}
        ack = PageRequest("POST", "/api/rules/ack", "", headers, b'{"incident":"x"}', ALL)
        status, answer = await body(pair, ack)
        assert status == 200
        assert b'"by":"anna@b"' in answer
        assert rb"{\"incident\":\"x\"}" in answer

    connected(test, Pair(tmp_path))


def test_viewer_has_no_more_rights_on_another_host(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        viewer = Access("kiosk", frozenset({"view"}))
        headers = {"content-type": "application/json"}
        status, why = await body(pair, PageRequest("POST", "/api/rules/ack", "", headers, b"{}", viewer))
        assert (status, b"kiosk has no permission to command" in why) == (403, True)
        assert (await body(pair, replace(GET, access=viewer)))[0] == 200
        assert (await body(pair, replace(GET, access=Access("x", frozenset()))))[0] == 403

    connected(test, Pair(tmp_path))


@pytest.mark.parametrize("path", ["/metrics", "/", "/login", "/api/streams/../../metrics", "/push/picture/x"])
def test_other_hosts_get_the_api_only(tmp_path: Path, path: str) -> None:
    async def test(pair: Pair) -> None:
        assert (await body(pair, replace(GET, path=path)))[0] == 404
        assert pair.refused["host"] == 1

    connected(test, Pair(tmp_path))


def test_host_with_frames_only_gets_nothing_of_the_page(tmp_path: Path) -> None:
    """A key that `streamer keys allow` knows is enough for frames; the page is for hosts of the cluster."""

    async def test(pair: Pair) -> None:
        assert (await body(pair, GET))[0] == 403

    connected(test, Pair(tmp_path, hosts=("c",)))


def test_wrong_key_gets_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        pair = Pair(tmp_path, known=())
        async with running(pair):
            await becomes(lambda: "does not know the key" in (pair.b.problem or ""), "refused")
            await becomes(lambda: pair.refused["host"], "counted")
            with pytest.raises(HostUnreachable, match="streamer keys allow"):
                await body(pair, GET)

    asyncio.run(run())


def test_endless_answers_wait_for_the_reader_and_stop(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        async with pair.b.open(replace(GET, path="/live/gate.mjpeg"), WAIT_S) as answer:
            chunks = aiter(answer.chunks)
            read = b"".join([(await anext(chunks)).body for _ in range(5)])
            await body(pair, GET)  # others go on
            assert read == b"1;2;3;4;5;"
            assert pair.app.made <= 9, "parts were made that nobody had asked for"
        await becomes(lambda: gc.collect() is not None and pair.app.ended == 1, "the answer ends")

    connected(test, Pair(tmp_path))


def test_requests_fail_at_once_when_the_host_is_lost(tmp_path: Path) -> None:
    async def run() -> None:
        pair = Pair(tmp_path)
        async with running(pair) as server:
            await becomes(lambda: pair.b.problem is None, "connected")
            async with pair.b.open(replace(GET, path="/live/gate.mjpeg"), WAIT_S) as answer:
                server.cancel()
                with pytest.raises(HostUnreachable):
                    async for _ in answer.chunks:
                        pass
            with pytest.raises(HostUnreachable):
                await body(pair, GET)
            again = pair.serve()
            await becomes(lambda: pair.b.problem is None, "connected again")
            assert (await body(pair, GET))[0] == 200
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

    asyncio.run(run())


def test_open_requests_are_limited(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        live = replace(GET, path="/live/gate.mjpeg")
        opened = [pair.b.open(live, WAIT_S) for _ in range(MAX_OPEN)]
        for one in opened:
            await one.__aenter__()
        with pytest.raises(HostUnreachable, match=f"{MAX_OPEN} requests"):
            await body(pair, GET)
        for one in opened:
            await one.__aexit__(None, None, None)
        assert (await body(pair, GET))[0] == 200

    connected(test, Pair(tmp_path))


def test_a_bug_on_another_host_is_an_answer(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        status, text = await body(pair, replace(GET, path="/api/snapshot/gate.jpg"))
        assert (status, b"a bug" in text) == (500, False)
        assert (await body(pair, GET))[0] == 200

    connected(test, Pair(tmp_path))


def test_new_key_of_a_host_takes_effect(tmp_path: Path) -> None:
    async def test(pair: Pair) -> None:
        pair.keys["b"].allow("a", pair.keys["a"].create(replace=True).public.hex())
        await becomes(lambda: pair.b.problem is not None, "the old connection ends")
        await becomes(lambda: pair.b.problem is None, "connected with the new key")
        assert (await body(pair, GET))[0] == 200

    connected(test, Pair(tmp_path))
