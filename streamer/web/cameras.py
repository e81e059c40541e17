"""Asks the capture processes how they are, and for a single picture when somebody wants one."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import zmq

from streamer.bus.frames import FrameClient, Reply, Want
from streamer.bus.messages import LONGEST_WAIT_S
from streamer.events import FrameCounts
from streamer.types import Image

PING_S = 0.5
TICK_S = 0.25
SNAPSHOT_S = 2.0
"""How long a picture is waited for."""
HEARD_S = 3.0
"""A capture that answered within this time is there."""
RATE_S = 5.0
"""Over how long the pictures per second are counted."""
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

    def answers(self, now: float) -> bool:
        return self.heard is not None and now - self.heard < HEARD_S

    def frame_age(self, now: float) -> float | None:
        """Seconds since the newest frame that is known of. While it answers, as it said."""
        if self.heard is None or self.frame_age_then is None:
            return None
        return self.frame_age_then + (0.0 if now - self.heard < 2 * PING_S else now - self.heard)


@dataclass(frozen=True, slots=True)
class _Wish:
    stream: str
    width: int | None
    picture: Future[bytes | None]
    until: float


@dataclass(slots=True)
class _Stream:
    wishes: list[_Wish] = field(default_factory=list)
    asked: int | None = None
    """The fetch that is on its way: one at a time, so that one buffer for each stream is enough."""
    captured: deque[tuple[float, int]] = field(default_factory=deque)


class Cameras(threading.Thread):
    """Owns the frame client, which is not thread-safe. A context manager."""

    def __init__(self, runtime: Path, streams: Iterable[str]) -> None:
        super().__init__(name="cameras", daemon=True)
        names = list(streams)
        self.states = dict.fromkeys(names, CameraState())
        """By stream; values are replaced, never changed."""
        self._streams = {name: _Stream() for name in names}
        self._runtime = runtime
        self._wishes: queue.SimpleQueue[_Wish] = queue.SimpleQueue()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._over = threading.Event()

    def __enter__(self) -> Cameras:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        os.eventfd_write(self._wake_fd, 1)
        self.join()
        os.close(self._wake_fd)

    async def snapshot(self, stream: str, width: int | None = None) -> bytes | None:
        """The newest frame as JPEG, not wider than `width`; None when there is none within two seconds."""
        wish = _Wish(stream, width, Future(), time.monotonic() + SNAPSHOT_S)
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
                stream.asked = client.fetch(name, Want(every=LONGEST_WAIT_S))  # any will do: decode no more for it

    def _state(self, reply: Reply, counts: FrameCounts) -> CameraState:
        now = time.monotonic()
        captured = self._streams[reply.stream].captured
        if captured and captured[-1][1] > counts.captured:
            captured.clear()  # a new capture process counts from 0
        captured.append((now, counts.captured))
        while now - captured[0][0] > RATE_S:
            captured.popleft()
        (first, before) = captured[0]
        seconds = now - first
        return CameraState(
            heard=now,
            frame_age_then=reply.last_frame_age,
            counts=counts,
            fps=(counts.captured - before) / seconds if seconds > 0 else None,
        )


def _grant(wish: _Wish, picture: bytes | None) -> None:
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
