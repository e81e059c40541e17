"""Annotated pictures on their way from the views to the browsers, as Motion JPEG.

A view encodes only while somebody is subscribed, so a socket exists only while somebody looks. Who looks is given the
newest picture whenever he is ready for one: a slow browser sees fewer, and holds up nobody.
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

from streamer.video.outputs import ViewId
from streamer.video.outputs.mjpeg import jpeg_endpoint

TOPIC = b"jpeg"
MAX_MESSAGE_BYTES = 32 << 20
"""Bytes of a message; a view that sent more would be disconnected."""
WAITING = 4
"""Pictures that may wait in the socket; they are read at once."""


class JpegFeed:
    """The pictures of one view. Made and used in the event loop."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self._socket = context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, WAITING)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._socket.subscribe(TOPIC)
        self._socket.connect(endpoint)
        self._picture = b""
        self._number = 0
        self._news = asyncio.Event()
        self._over = False
        self._reader = asyncio.create_task(self._read())

    async def next(self, after: int) -> tuple[int, bytes] | None:
        """The newest picture, as soon as its number is larger; None when there will be no more."""
        while self._number <= after and not self._over:
            await self._news.wait()
        return None if self._over else (self._number, self._picture)

    def close(self) -> None:
        self._over = True
        self._reader.cancel()
        self._socket.close(linger=0)
        self._wake()

    async def _read(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            if len(parts) == 2:
                self._picture = parts[1]
                self._number += 1
                self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class JpegHub:
    """The feeds that somebody looks at. Made and used in the event loop."""

    def __init__(self, runtime: Path) -> None:
        self.watchers: Counter[str] = Counter()
        """How many look at each view."""
        self._runtime = runtime
        self._context = zmq.asyncio.Context()
        self._feeds: dict[str, JpegFeed] = {}
        self._over = False

    def close(self) -> None:
        """Everyone's pictures end."""
        self._over = True
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()

    async def pictures(self, view: str) -> AsyncIterator[bytes]:
        """The newest picture again and again, each as soon as the one before was taken."""
        async with self._watch(view) as feed:
            number = 0
            while feed is not None and (found := await feed.next(number)) is not None:
                number, picture = found
                yield picture

    async def picture(self, view: str, timeout: float) -> bytes | None:
        """The next picture; None when there is none in time."""
        async with self._watch(view) as feed:
            try:
                found = await asyncio.wait_for(feed.next(0), timeout) if feed is not None else None
            except TimeoutError:
                return None
            return found[1] if found else None

    @asynccontextmanager
    async def _watch(self, view: str) -> AsyncIterator[JpegFeed | None]:
        """The feed of a view, open while at least one is inside; None at the end of the program."""
        if self._over:
            yield None
            return
        if view not in self._feeds:
            self._feeds[view] = JpegFeed(self._context, jpeg_endpoint(self._runtime, ViewId.parse(view)))
        feed = self._feeds[view]
        self.watchers[view] += 1
        try:
            yield feed
        finally:
            self.watchers[view] -= 1
            if not self.watchers[view] and self._feeds.get(view) is feed:
                self._feeds.pop(view).close()


def motion_jpeg(pictures: AsyncIterator[bytes]) -> StreamingResponse:
    """A response in which each picture takes the place of the one before."""
    boundary = secrets.token_hex(24)  # long and random, so that no picture holds it

    async def parts() -> AsyncIterator[bytes]:
        yield f"--{boundary}\r\n".encode()
        async for picture in pictures:
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            # A browser shows a picture when it has read the boundary after it, so that is sent along at once.
            yield head.encode() + picture + f"\r\n--{boundary}\r\n".encode()

    return StreamingResponse(parts(), media_type=f"multipart/x-mixed-replace; boundary={boundary}")
