"""Poll the capture processes for their state, and fetch single frames as JPEG on request."""

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

import zmq

from streamer.bus.frame_client import FrameClient, FrameRequest, Reply
from streamer.bus.frame_protocol import MAX_WAIT_S
from streamer.core.jpeg import encode_jpeg
from streamer.events.schema import FrameCounts

PING_S = 0.5
POLL_S = 0.25
SNAPSHOT_TIMEOUT_S = 2.0
REPLY_TIMEOUT_S = 3.0
"""A capture process without a reply for so long does not answer."""
RATE_WINDOW_S = 5.0
"""Period over which the frame rate is measured."""
INTERVAL_SAMPLES = 10
"""Polls with a newer frame, from which the frame interval is measured."""
MIN_STALLED_S, MAX_STALLED_S, STALLED_INTERVALS = 3.0, 60.0, 3.0
"""A camera has stalled after STALLED_INTERVALS frame intervals without a frame, limited to these seconds."""
JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True)
class CaptureState:
    """State of a stream's capture process, from its last reply."""

    since: float = field(default_factory=time.monotonic)
    """Monotonic second at which this state was made."""
    replied: float | None = None
    """Monotonic second of the last reply."""
    frame_age_at_reply: float | None = None
    """Seconds since the newest frame, at the time of the reply."""
    counts: FrameCounts | None = None
    fps: float | None = None
    interval: float | None = None
    """Seconds between the newest frames, also while no new ones come."""

    def answers(self, now: float) -> bool:
        return self.replied is not None and now - self.replied < REPLY_TIMEOUT_S

    def frame_age(self, now: float) -> float | None:
        """Return the seconds since the newest frame; while pings are answered, as in the last reply."""
        if self.replied is None or self.frame_age_at_reply is None:
            return None
        return self.frame_age_at_reply + (0.0 if now - self.replied < 2 * PING_S else now - self.replied)

    def is_stalled(self, now: float) -> bool:
        """Return whether the next frame is overdue, compared with the interval so far."""
        age, limit = self.frame_age(now), STALLED_INTERVALS * (self.interval or 0.0)
        return age is not None and age > min(MAX_STALLED_S, max(MIN_STALLED_S, limit))


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """A request for the newest frame of a stream as JPEG; `result` is None if there is none until the deadline."""

    stream: str
    width: int | None
    result: Future[bytes | None]
    deadline: float

    def resolve(self, jpeg: bytes | None) -> None:
        if self.result.set_running_or_notify_cancel():  # cancelled if the client has disconnected
            self.result.set_result(jpeg)


@dataclass(slots=True)
class _Stream:
    snapshots: list[SnapshotRequest] = field(default_factory=list)
    fetch: int | None = None
    """Id of the pending fetch; one at a time, so that one buffer per stream is enough."""
    captured: deque[tuple[float, int]] = field(default_factory=deque)
    """Time of each reply within RATE_WINDOW_S, and the number of captured frames."""
    newest: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=INTERVAL_SAMPLES))
    """Capture time of the newest frame and its number, for each reply with a newer frame."""

    def update(self, age: float | None, counts: FrameCounts) -> CaptureState:
        """Add a reply and return the new state."""
        now, count = time.monotonic(), counts.captured
        if self.captured and self.captured[-1][1] > count:  # a new capture process counts from 0
            self.captured.clear()
            self.newest.clear()
        self.captured.append((now, count))
        while now - self.captured[0][0] > RATE_WINDOW_S:
            self.captured.popleft()
        if age is not None and (not self.newest or self.newest[-1][1] != count):
            self.newest.append((now - age, count))
        interval = _interval(self.newest)
        # The rate window holds too few frames of a slow camera.
        is_slow = interval is not None and age is not None and 2 * interval > RATE_WINDOW_S and age < 2 * interval
        current = interval if is_slow else _interval(self.captured)
        fps = None if now == self.captured[0][0] else 1 / current if current else 0.0
        return CaptureState(replied=now, frame_age_at_reply=age, counts=counts, fps=fps, interval=interval)


class CapturePoller(threading.Thread):
    """Thread that owns the frame client, which is not thread-safe. A context manager."""

    def __init__(self, runtime: Path, streams: Iterable[str]) -> None:
        super().__init__(name="capture-poller", daemon=True)
        names = list(streams)
        self.states = dict.fromkeys(names, CaptureState())
        """State by stream. Values are replaced, never changed, so any thread may read them."""
        self._streams = {name: _Stream() for name in names}
        self._runtime = runtime
        self._requests: queue.SimpleQueue[SnapshotRequest] = queue.SimpleQueue()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = threading.Event()

    def __enter__(self) -> CapturePoller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        os.eventfd_write(self._wake_fd, 1)
        self.join()
        os.close(self._wake_fd)

    async def snapshot(self, stream: str, width: int | None = None) -> bytes | None:
        """Return the newest frame as JPEG, at most `width` wide, or None if none arrives within 2 s."""
        request = SnapshotRequest(stream, width, Future(), time.monotonic() + SNAPSHOT_TIMEOUT_S)
        self._requests.put(request)
        os.eventfd_write(self._wake_fd, 1)
        return await asyncio.wrap_future(request.result)

    def run(self) -> None:
        with FrameClient(self._runtime, "web", len(self._streams)) as client:
            for stream in self._streams:
                client.connect(stream)
            poller = zmq.Poller()
            for readable in (*client.sockets(), self._wake_fd):
                poller.register(readable, zmq.POLLIN)
            ping_at = 0.0
            while not self._stopping.is_set():
                if (now := time.monotonic()) >= ping_at:
                    ping_at = now + PING_S
                    for stream in self._streams:
                        client.ping(stream)
                for readable, _ in poller.poll(int(POLL_S * 1000)):
                    if readable == self._wake_fd:
                        os.eventfd_read(self._wake_fd)
                for reply in client.receive():
                    self._on_reply(client, reply)
                self._fetch_snapshots(client)
        for request in (request for stream in self._streams.values() for request in stream.snapshots):
            request.resolve(None)

    def _on_reply(self, client: FrameClient, reply: Reply) -> None:
        stream = self._streams[reply.stream]
        if reply.counts is not None:
            self.states[reply.stream] = stream.update(reply.last_frame_age, reply.counts)
        if reply.request != stream.fetch:
            return
        stream.fetch = None
        if reply.frame is not None:
            for request in stream.snapshots:
                jpeg = encode_jpeg(reply.frame.image, JPEG_QUALITY, request.width)
                request.resolve(None if jpeg is None else jpeg.content)
            stream.snapshots.clear()
            client.settle(reply.frame, "done")

    def _fetch_snapshots(self, client: FrameClient) -> None:
        """Accept new requests, end expired ones, and fetch a frame for each stream that has requests left."""
        while not self._requests.empty():
            request = self._requests.get()
            self._streams[request.stream].snapshots.append(request)
        now = time.monotonic()
        for name, stream in self._streams.items():
            for request in stream.snapshots[:]:
                if request.deadline < now or request.result.cancelled():
                    stream.snapshots.remove(request)
                    request.resolve(None)
            if stream.snapshots and stream.fetch is None:
                # The longest interval: a snapshot takes any frame and must not make capture decode more of them.
                stream.fetch = client.fetch(name, FrameRequest(interval=MAX_WAIT_S))


def _interval(samples: Sequence[tuple[float, int]]) -> float | None:
    """Return the seconds per frame between the first and the last sample, or None if no frame came between them."""
    (first_time, first), (last_time, last) = (samples[0], samples[-1]) if samples else ((0.0, 0), (0.0, 0))
    return (last_time - first_time) / (last - first) if last > first else None
