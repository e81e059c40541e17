"""Annotated JPEGs from the views to the browsers, as Motion JPEG.

A view encodes only while it has a subscriber, so a socket exists only while a client watches. Each client gets the
newest JPEG whenever it can take one: a slow client skips JPEGs and delays nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import zmq
import zmq.asyncio
from fastapi.responses import StreamingResponse

from streamer.video.outputs.base import ViewId
from streamer.video.outputs.mjpeg import jpeg_endpoint

TOPIC = b"jpeg"
MAX_MESSAGE_BYTES = 32 << 20
"""ZeroMQ disconnects a view that sends a larger message."""
QUEUE = 4
"""Receive high-water mark in JPEGs. The reader takes each one at once."""

UNBUFFERED = {"X-Accel-Buffering": "no"}
"""Header of endless responses: nginx passes each part on at once."""


class JpegFeed:
    """The newest JPEG of one view. Belongs to the event loop."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, QUEUE)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.subscribe(TOPIC)
        self._socket.connect(endpoint)
        self._jpeg = b""
        self._number = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._reader = asyncio.create_task(self._read())

    async def next(self, after: int) -> tuple[int, bytes] | None:
        """Wait for a JPEG with a number above `after`; return number and JPEG, or None if the feed is closed."""
        while self._number <= after and not self._closed:
            await self._changed.wait()
        return None if self._closed else (self._number, self._jpeg)

    def close(self) -> None:
        self._closed = True
        self._reader.cancel()
        self._socket.close(linger=0)
        self._notify()

    async def _read(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            if len(parts) == 2:
                self._jpeg = parts[1]
                self._number += 1
                self._notify()

    def _notify(self) -> None:
        """Wake all waiting clients; later ones wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()


class JpegHub:
    """The feeds of the views that have clients. Belongs to the event loop."""

    def __init__(self, runtime: Path) -> None:
        self.watchers: Counter[ViewId] = Counter()
        """Number of clients by view."""
        self._runtime = runtime
        self._context = zmq.asyncio.Context()
        self._feeds: dict[ViewId, JpegFeed] = {}
        self._closed = False

    def close(self) -> None:
        """Close all feeds; this ends the responses of all clients."""
        self._closed = True
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()

    async def watch(self, view: ViewId) -> AsyncIterator[bytes]:
        """Yield the newest JPEG each time the client has taken the one before."""
        async with self._open_feed(view) as feed:
            number = 0
            while feed is not None and (found := await feed.next(number)) is not None:
                number, jpeg = found
                yield jpeg

    async def next_jpeg(self, view: ViewId, timeout: float) -> bytes | None:
        """Return the next JPEG, or None if there is none within `timeout` seconds."""
        async with self._open_feed(view) as feed:
            try:
                found = await asyncio.wait_for(feed.next(0), timeout) if feed is not None else None
            except TimeoutError:
                return None
            return found[1] if found else None

    @asynccontextmanager
    async def _open_feed(self, view: ViewId) -> AsyncIterator[JpegFeed | None]:
        """Hold the feed of a view, which is open while at least one client holds it; None if the hub is closed."""
        if self._closed:
            yield None
            return
        if view not in self._feeds:
            self._feeds[view] = JpegFeed(self._context, jpeg_endpoint(self._runtime, view))
        feed = self._feeds[view]
        self.watchers[view] += 1
        try:
            yield feed
        finally:
            self.watchers[view] -= 1
            if not self.watchers[view] and self._feeds.get(view) is feed:
                self._feeds.pop(view).close()


def multipart_response(jpegs: AsyncIterator[bytes]) -> StreamingResponse:
    """Return a Motion JPEG response: each part replaces the one before."""
    boundary = secrets.token_hex(24)  # long and random, so that no JPEG contains it

    async def parts() -> AsyncIterator[bytes]:
        yield f"--{boundary}\r\n".encode()
        async for jpeg in jpegs:
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            # A browser shows a part once it has read the boundary after it, so the boundary is sent at once.
            yield head.encode() + jpeg + f"\r\n--{boundary}\r\n".encode()

    return StreamingResponse(parts(), media_type=f"multipart/x-mixed-replace; boundary={boundary}", headers=UNBUFFERED)
