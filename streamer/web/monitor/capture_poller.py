"""Asks the capture processes how they are, and for a single picture when somebody wants one."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import zmq

from streamer.bus.frame_client import FrameClient, FrameRequest, Reply
from streamer.bus.frame_protocol import MAX_WAIT_S
from streamer.events.schema import FrameCounts
from streamer.types import Image

PING_S = 0.5
TICK_S = 0.25
SNAPSHOT_S = 2.0
"""How long a picture is waited for."""
HEARD_S = 3.0
"""A capture that answered within this time is there."""
RATE_S = 5.0
"""Over how long the pictures per second are counted."""
NEWEST = 10
"""Looks at which there were newer frames, from which their interval is taken."""
STALLED_S, STALLED_MOST_S = 3.0, 60.0
"""A camera has stalled after so long without a frame; a slow one after `STALLED` of its intervals, but not later than
after the last."""
STALLED = 3.0
QUALITY = 80


@dataclass(frozen=True, slots=True)
class CameraState:
    """What a stream's capture last said of itself."""

    since: float = field(default_factory=time.monotonic)
    """Monotonic second at which this was noted."""
    heard: float | None = None
    """Monotonic second of its last answer."""
    frame_age_then: float | None = None
    """How old its newest frame was when it answered."""
    counts: FrameCounts | None = None
    fps: float | None = None
    interval: float | None = None
    """Seconds between the newest frames there are, however long ago these came."""

    def answers(self, now: float) -> bool:
        return self.heard is not None and now - self.heard < HEARD_S

    def frame_age(self, now: float) -> float | None:
        """Seconds since the newest frame that is known of. While it answers, as it said."""
        if self.heard is None or self.frame_age_then is None:
            return None
        return self.frame_age_then + (0.0 if now - self.heard < 2 * PING_S else now - self.heard)

    def is_stalled(self, now: float) -> bool:
        """The next frame is long overdue, by how often they came."""
        age = self.frame_age(now)
        return age is not None and age > min(STALLED_MOST_S, max(STALLED_S, STALLED * (self.interval or 0.0)))


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    stream: str
    width: int | None
    picture: Future[bytes | None]
    until: float


@dataclass(slots=True)
class _Stream:
    wishes: list[SnapshotRequest] = field(default_factory=list)
    asked: int | None = None
    """The fetch that is on its way: one at a time, so that one buffer for each stream is enough."""
    captured: deque[tuple[float, int]] = field(default_factory=deque)
    """When it was asked of late, and how many frames there had been."""
    newest: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=NEWEST))
    """When the newest frame came, and how many there had been, of each time there was a newer one."""


class CapturePoller(threading.Thread):
    """Owns the frame client, which is not thread-safe. A context manager."""

    def __init__(self, runtime: Path, streams: Iterable[str]) -> None:
        super().__init__(name="cameras", daemon=True)
        names = list(streams)
        self.states = dict.fromkeys(names, CameraState())
        """By stream; values are replaced, never changed."""
        self._streams = {name: _Stream() for name in names}
        self._runtime = runtime
        self._wishes: queue.SimpleQueue[SnapshotRequest] = queue.SimpleQueue()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._over = threading.Event()

    def __enter__(self) -> CapturePoller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        os.eventfd_write(self._wake_fd, 1)
        self.join()
        os.close(self._wake_fd)

    async def snapshot(self, stream: str, width: int | None = None) -> bytes | None:
        """The newest frame as JPEG, not wider than `width`; None when there is none within two seconds."""
        wish = SnapshotRequest(stream, width, Future(), time.monotonic() + SNAPSHOT_S)
        self._wishes.put(wish)
        os.eventfd_write(self._wake_fd, 1)
        return await asyncio.wrap_future(wish.picture)

    def run(self) -> None:
        with FrameClient(self._runtime, "web", len(self._streams)) as client:
            for stream in self._streams:
                client.connect(stream)
            poller = zmq.Poller()
            for readable in (*client.sockets(), self._wake_fd):
                poller.register(readable, zmq.POLLIN)
            ping_at = 0.0
            while not self._over.is_set():
                if (now := time.monotonic()) >= ping_at:
                    ping_at = now + PING_S
                    for stream in self._streams:
                        client.ping(stream)
                for readable, _ in poller.poll(int(TICK_S * 1000)):
                    if readable == self._wake_fd:
                        os.eventfd_read(self._wake_fd)
                for reply in client.receive():
                    self._take(client, reply)
                self._ask(client)
        for wish in (wish for one in self._streams.values() for wish in one.wishes):
            _grant(wish, None)

    def _take(self, client: FrameClient, reply: Reply) -> None:
        if reply.counts is not None:
            self.states[reply.stream] = self._state(reply, reply.counts)
        stream = self._streams[reply.stream]
        if reply.request != stream.asked:
            return
        stream.asked = None
        if reply.frame is not None:
            for wish in stream.wishes:
                _grant(wish, jpeg(reply.frame.image, wish.width))
            stream.wishes.clear()
            client.settle(reply.frame, "done")

    def _ask(self, client: FrameClient) -> None:
        while not self._wishes.empty():
            wish = self._wishes.get()
            self._streams[wish.stream].wishes.append(wish)
        now = time.monotonic()
        for name, stream in self._streams.items():
            for wish in [wish for wish in stream.wishes if wish.until < now or wish.picture.cancelled()]:
                stream.wishes.remove(wish)
                _grant(wish, None)
            if stream.wishes and stream.asked is None:
                stream.asked = client.fetch(
                    name, FrameRequest(interval=MAX_WAIT_S)
                )  # any will do: decode no more for it

    def _state(self, reply: Reply, counts: FrameCounts) -> CameraState:
        now, age, count = time.monotonic(), reply.last_frame_age, counts.captured
        captured, newest = self._streams[reply.stream].captured, self._streams[reply.stream].newest
        if captured and captured[-1][1] > count:
            captured.clear()  # a new capture process counts from 0
            newest.clear()
        captured.append((now, count))
        while now - captured[0][0] > RATE_S:
            captured.popleft()
        if age is not None and (not newest or newest[-1][1] != count):
            newest.append((now - age, count))
        interval = _per_frame(newest)
        is_slow = interval is not None and age is not None and 2 * interval > RATE_S and age < 2 * interval
        each = interval if is_slow else _per_frame(captured)
        fps = None if now == captured[0][0] else 1 / each if each else 0.0
        return CameraState(heard=now, frame_age_then=age, counts=counts, fps=fps, interval=interval)


def _per_frame(looks: Sequence[tuple[float, int]]) -> float | None:
    """Seconds for each frame between the first and the last look; None where none came."""
    (began, before), (ended, count) = (looks[0], looks[-1]) if looks else ((0.0, 0), (0.0, 0))
    return (ended - began) / (count - before) if count > before else None


def _grant(wish: SnapshotRequest, picture: bytes | None) -> None:
    if wish.picture.set_running_or_notify_cancel():  # it is cancelled when who asked has gone
        wish.picture.set_result(picture)


def jpeg(image: Image, width: int | None) -> bytes:
    """`image` as JPEG, made smaller to `width` where it is wider."""
    if width is not None and width < image.shape[1]:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return data.tobytes()
