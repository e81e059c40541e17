"""Serves frames to other hosts: the serving side of `sources/remote.py`.

A request is held until its stream has a newer frame. The frame is fetched from its capture process like that of a view,
encoded unless the camera's own encoding is passed on, and sent to all hosts that wait for it in this quality.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from streamer.bus.curve import CurveServer, PeerMessage
from streamer.bus.frame_client import EncodedFrame, Encoding, FrameClient, FrameRequest, NoBuffer, Reply
from streamer.bus.remote_protocol import (
    MAX_HOLD_S,
    MAX_PICTURE_BYTES,
    NEXT_S,
    Answer,
    Ask,
    RemoteFrame,
    decode_ask,
    encode,
)
from streamer.capture.encoding import encode_image
from streamer.core.closing import Closing
from streamer.core.errors import WireError
from streamer.core.logs import RareLog
from streamer.events.schema import FrameCounts
from streamer.types import Frame, FrameId

log = logging.getLogger(__name__)

LINK_LOST = "link_lost"
"""Cause of drop: the asking host never confirmed that it has the frame, or it came too late there."""
SILENCE_S = 5.0
"""Seconds without a request after which a host has gone. It asks at least once a second."""
MAX_LINKS = 256
"""Links at a time; each is one stream of one connection. When all are taken, the host with the most gives way."""


@dataclass(slots=True)
class Link:
    """One stream for one connection of another host, with the accounting of its frames."""

    peer: str
    stream: str
    heard: float
    """Monotonic second of the last request."""
    ask: Ask | None = None
    """The request that waits for a frame."""
    asked_at: float = 0.0
    _sent: int = 0
    _done: int = 0
    _dropped: Counter[str] = field(default_factory=Counter)
    _in_flight: FrameId | None = None

    def counts(self) -> FrameCounts:
        """Return the accounting: each sent frame is confirmed, dropped or in flight."""
        return FrameCounts(
            captured=self._sent,
            not_asked=0,
            done=self._done,
            dropped=dict(self._dropped),
            in_flight=int(self._in_flight is not None),
        )

    def on_sent(self, frame: FrameId, is_queued: bool) -> None:
        self._sent += 1
        if is_queued:
            self._in_flight = frame
        else:
            self._dropped[LINK_LOST] += 1

    def settle(self, has: FrameId | None) -> None:
        """The asking host has the frame `has`, and no later one."""
        if self._in_flight is None:
            return
        if has == self._in_flight:
            self._done += 1
        else:
            self._dropped[LINK_LOST] += 1
        self._in_flight = None


@dataclass(slots=True)
class _Stream:
    request: int | None = None
    """Id of the request to capture without a reply."""
    takes_older: bool = False
    """It waits for a young frame. If there is none in time, an older one is sent."""
    quality: int | None = None
    """Quality of the frame that was fetched last. None: lossless."""


class RemoteServer(Closing):
    """Answers the requests of other hosts for the frames of some streams. Never blocks. Not thread-safe."""

    def __init__(
        self, runtime: Path, streams: Iterable[str], server: CurveServer, on_change: Callable[[Link, str], None]
    ) -> None:
        """`on_change` gets a link that is `up` or `down`."""
        self._streams = {name: _Stream() for name in streams}
        self._server, self._on_change = server, on_change
        self._frames = FrameClient(runtime, "remote", 1 + len(self._streams))
        for name in self._streams:
            self._frames.connect(name)
        self._links: dict[tuple[bytes, str], Link] = {}
        self._refusals: list[str] = []
        self._invalid = RareLog(log, "invalid request of another host %d dropped: %s, %s")

    def close(self) -> None:
        self._frames.close()
        self._server.close()

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading; call `handle` when one is readable, and at least once a second."""
        return [*self._server.sockets(), *self._frames.sockets()]

    def take_refusals(self) -> list[str]:
        """Return why connections or requests were refused since the last call."""
        refusals, self._refusals = self._refusals + self._server.take_refusals(), []
        return refusals

    def end_links(self) -> None:
        """End all links, before a stop."""
        while self._links:
            self._end(self._links.popitem()[1])

    def handle(self) -> None:
        """Answer what can be answered."""
        for message in self._server.receive():
            try:
                self._on_ask(message, decode_ask(message.body))
            except WireError as error:
                self._invalid.add(message.peer, error)
        for reply in self._frames.receive():
            self._on_reply(reply)
        now = time.monotonic()
        for key, link in list(self._links.items()):
            if link.ask is not None and now - link.asked_at >= MAX_HOLD_S:
                self._answer(key[0], link)
            if now - link.heard > SILENCE_S:
                del self._links[key]
                self._end(link)

    def _on_ask(self, message: PeerMessage, ask: Ask) -> None:
        now, key = time.monotonic(), (message.route, ask.stream)
        if problem := self._problem(message, ask):
            self._server.send(message.route, [encode(Answer(id=ask.id, held=0.0, error=problem))])
            return
        if (link := self._links.get(key)) is None:
            link = self._links[key] = Link(message.peer, ask.stream, now)
            self._on_change(link, "up")
        link.heard = now
        link.settle(ask.after)
        if link.ask is not None:
            self._answer(message.route, link)
        link.ask, link.asked_at = ask, now
        if ask.wants_frame:
            self._wait(ask.stream, ask.max_age)
        else:
            self._answer(message.route, link)

    def _problem(self, message: PeerMessage, ask: Ask) -> str | None:
        """Return why a request is refused."""
        if ask.stream not in self._streams:
            problem = f"no stream `{ask.stream}` is served"
        elif (message.route, ask.stream) in self._links or self._has_room(message.peer):
            return None
        else:
            problem = f"{MAX_LINKS} streams are served at the same time already"
        self._refusals.append(f"{message.peer}: {problem}")
        return problem

    def _has_room(self, peer: str) -> bool:
        """Return whether a host may have one more link. If needed, end one of a host that has at least two more."""
        if len(self._links) < MAX_LINKS:
            return True
        links = Counter(link.peer for link in self._links.values())
        greedy, number = links.most_common(1)[0]
        if number < links[peer] + 2:
            return False
        key = next(key for key, link in self._links.items() if link.peer == greedy)
        self._end(self._links.pop(key))
        self._refusals.append(f"{greedy}: it has {number} of {MAX_LINKS} streams, one ended for {peer}")
        return True

    def _waiting(self, stream: str) -> list[tuple[bytes, Link, Ask]]:
        """Return the links that wait for a frame of a stream, with their connections."""
        return [
            (route, link, link.ask)
            for (route, name), link in self._links.items()
            if name == stream and link.ask is not None and link.ask.wants_frame
        ]

    def _next_ask(self, stream: str) -> Ask | None:
        """Return the waiting request that the oldest frame satisfies, None without any."""
        asks = (ask for _, _, ask in self._waiting(stream))
        return min(asks, key=lambda ask: ask.after or FrameId(0, 0), default=None)

    def _wait(self, name: str, max_age: float | None = None) -> None:
        """Wait for a frame; with `max_age` for a short time, for one that is not older."""
        if (ask := self._next_ask(name)) is not None:
            stream = self._streams[name]
            stream.takes_older = max_age is not None
            request = FrameRequest(after=ask.after, max_age=max_age)
            stream.request = self._frames.wait(name, request, NEXT_S if max_age else MAX_HOLD_S)

    def _on_reply(self, reply: Reply) -> None:
        stream = self._streams[reply.stream]
        if reply.frame is not None:
            self._deliver(reply.stream, _encoded(reply.frame, stream.quality), stream.quality)
            self._frames.settle(reply.frame, "done")
        elif reply.encoded is not None:
            self._deliver(reply.stream, reply.encoded, stream.quality)
        if reply.request != stream.request:
            return  # a newer request has replaced it
        stream.request = None
        ask, is_frame = self._next_ask(reply.stream), reply.frame is not None or reply.encoded is not None
        if (reply.ready or stream.takes_older) and not is_frame and ask is not None:
            stream.takes_older = False
            try:
                request, encoding = FrameRequest(after=ask.after), Encoding(quality=ask.quality)
                stream.request = self._frames.fetch(reply.stream, request, encoding=encoding)
                stream.quality = ask.quality
                return
            except NoBuffer:
                pass  # a capture process that died has them: ask again later
        self._wait(reply.stream)

    def _deliver(self, stream: str, frame: EncodedFrame, quality: int | None) -> None:
        """Send a frame to all hosts that wait for it in this quality."""
        for route, link, ask in self._waiting(stream):
            if ask.quality == quality and (ask.after is None or frame.id > ask.after):
                self._answer(route, link, frame)

    def _answer(self, route: bytes, link: Link, frame: EncodedFrame | None = None) -> None:
        """Answer the request of a link, with a frame or without."""
        assert link.ask is not None
        number, link.ask = link.ask.id, None
        held = time.monotonic() - link.asked_at
        if frame is None:
            self._server.send(route, [encode(Answer(id=number, held=held))])
        elif len(frame.data) > MAX_PICTURE_BYTES:
            problem = f"a picture of {len(frame.data) >> 20} MB is too large: ask for a lower `quality`"
            self._refusals.append(f"{link.peer}: stream {link.stream}: {problem}")
            self._server.send(route, [encode(Answer(id=number, held=held, error=problem))])
        else:
            age = max(0.0, time.monotonic() - frame.captured_mono)
            described = RemoteFrame(id=frame.id, pts=frame.pts, age=age, width=frame.width, height=frame.height)
            is_queued = self._server.send(route, [encode(Answer(id=number, held=held, frame=described)), frame.data])
            link.on_sent(frame.id, is_queued)

    def _end(self, link: Link) -> None:
        link.settle(None)
        self._on_change(link, "down")


def _encoded(frame: Frame, quality: int | None) -> EncodedFrame:
    height, width = frame.image.shape[:2]
    data = encode_image(frame.image, quality)
    return EncodedFrame(frame.id, frame.captured_mono, frame.pts, width, height, data)
