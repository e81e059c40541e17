"""The connection to an agent on another host that serves a stream.

One request is in flight at a time, for a frame newer than the last one. The other host holds it until there is such a
frame. Between the frames that its consumers need, the source rests: `_ask_times.py` says when it asks again. A consumer
that waits makes it ask at once.

The clocks of two hosts are never compared. The other host sends the age of the frame and for how long it held the
request. The rest of the round trip was spent on the wire; the request is assumed to have taken half of the shortest
round trip so far, and the answer all that is left.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import zmq

from streamer.bus.curve import CurveClient, LinkFailed
from streamer.bus.host_keys import HostKeys
from streamer.bus.remote_protocol import (
    MAX_HOLD_S,
    MAX_PICTURE_BYTES,
    Ask,
    RemoteFrame,
    decode_answer,
    encode,
)
from streamer.capture.sources._ask_times import AskTimes
from streamer.capture.sources._encoded_picture import EncodedPicture
from streamer.capture.sources.remote import Remote
from streamer.core.addresses import resolve
from streamer.core.errors import AddressError, SourceLost, WireError
from streamer.core.memory_limit import allow_pictures
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import FrameId

OPEN_S = 5.0
"""Longest wait for a connection and its first answer."""
ANSWER_S = 2.0
"""Seconds beyond the time for which a request may be held, after which the link counts as cut."""
LATE_S = 1.0
"""Seconds on the wire after which a frame is not used: a link that was cut delivers what it had kept."""
PING_S = 1.0
"""Seconds between two signs of life while the source rests."""
NO_FRAME_S = 20.0
"""Seconds without a new frame after which the source is lost: the camera of the other host may be down."""
_MAX_SLEEP_S = 0.25
"""Longest wait for an answer, so that a changed need is noticed."""


class RemoteSource:
    """One connection; the frames of one stream."""

    note: str | None = None

    def __init__(self, settings: Remote) -> None:
        """Connect. Raises SourceLost, or ConfigError if a key is missing."""
        self._settings = settings
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_lock = threading.Lock()
        self._last_id = 0
        self._asked: tuple[int, float] | None = None
        """Number of the request in flight, and the monotonic second at which it was sent."""
        self._answered_at = now = time.monotonic()
        self._frame_at = now
        """Monotonic second of the last frame, or of the end of the last rest."""
        self._times = AskTimes()
        self._has: FrameId | None = None
        self._shortest_trip = math.inf
        """Seconds of the shortest round trip."""
        try:
            address = str(resolve(settings.host, in_config=True)[0])
            self._client = CurveClient(
                HostKeys(), settings.peer_name, address, settings.port, MAX_PICTURE_BYTES + (1 << 16)
            )
        except AddressError as error:
            os.close(self._wake_fd)
            raise SourceLost(str(error)) from None
        except BaseException:
            os.close(self._wake_fd)
            raise
        self._poller = zmq.Poller()
        for readable in (self._client.socket, self._client.monitor, self._wake_fd):
            self._poller.register(readable, zmq.POLLIN)
        try:
            self._greet(now + OPEN_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._client.close()
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def set_interval(self, every: float) -> bool:
        """Return False: the frames that arrive are all used."""
        return False

    def rests(self, needed_at: float) -> bool:
        """See `RestingSource`."""
        self._times.needed_at = needed_at
        now = time.monotonic()
        return self._may_rest(now) and now >= self._times.old_at

    def wake(self) -> None:
        """See `RestingSource`."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def __iter__(self) -> Iterator[EncodedPicture | None]:
        while True:
            now = time.monotonic()
            if self._asked is None:
                if not self._may_rest(now):
                    self._ask(now, wants_frame=True)
                elif now - self._answered_at >= PING_S:
                    self._ask(now, wants_frame=False)
            yield self._receive(self._poll(self._wait_time(now)))
            self._check(time.monotonic())

    def _greet(self, deadline: float) -> None:
        """Return once the other host has answered for the first time. Raises SourceLost."""
        while self._shortest_trip == math.inf:
            now = time.monotonic()
            if now >= deadline:
                raise SourceLost("does not answer: it is off, cannot be reached, or serves nothing at this address")
            if self._asked is None:
                self._ask(now, wants_frame=False)
            self._receive(self._poll(0.05 if self._asked is None else deadline - now))

    def _may_rest(self, now: float) -> bool:
        """Return whether no frame is needed from the other host now."""
        return now < self._times.next_ask

    def _wait_time(self, now: float) -> float:
        """Return the longest seconds to wait for something to happen."""
        if self._asked is not None:
            return _MAX_SLEEP_S
        changes = [at - now for at in (self._times.next_ask, self._times.old_at) if at > now]
        return min([_MAX_SLEEP_S, *changes])

    def _poll(self, seconds: float) -> list[list[bytes]]:
        """Wait for an answer or a changed need, and return the answers. Raises SourceLost."""
        for readable, _ in self._poller.poll(max(0, math.ceil(seconds * 1000))):
            if readable == self._wake_fd:
                os.eventfd_read(self._wake_fd)
        try:
            return self._client.receive()
        except LinkFailed as error:
            raise SourceLost(f"{self._settings.peer_name} {error}") from None

    def _ask(self, now: float, wants_frame: bool) -> None:
        self._last_id += 1
        quality = None if self._settings.quality == "lossless" else self._settings.quality
        ask = Ask(
            id=self._last_id,
            stream=self._settings.stream,
            wants_frame=wants_frame,
            after=self._has,
            max_age=self._times.max_age,
            quality=quality,
        )
        if self._client.send(encode(ask)):
            self._asked = self._last_id, now
            if wants_frame:
                self._times.on_ask(now)

    def _check(self, now: float) -> None:
        """Raise SourceLost when the other host, or its camera, is silent for too long."""
        asked_at = self._asked[1] if self._asked is not None else max(self._answered_at + PING_S, now)
        if now - asked_at > MAX_HOLD_S + ANSWER_S:
            raise SourceLost(
                f"no answer for {MAX_HOLD_S + ANSWER_S:g} s: the link or {self._settings.peer_name} is down"
            )
        if self._may_rest(now):
            self._frame_at = now
        elif now - self._frame_at > NO_FRAME_S:
            raise SourceLost(
                f"{self._settings.peer_name} had no new frame for {NO_FRAME_S:g} s: its camera may be down"
            )

    def _receive(self, answers: list[list[bytes]]) -> EncodedPicture | None:
        """Return the frame of the answer to the request in flight, if it has one. Raises SourceLost."""
        for parts in answers:
            now = time.monotonic()
            try:
                answer = decode_answer(parts[0])
            except WireError as error:
                raise SourceLost(f"{self._settings.peer_name} sends a damaged answer: {error}") from None
            if self._asked is None or answer.id != self._asked[0]:
                continue
            took = now - self._asked[1]
            on_wire = max(0.0, took - answer.held)
            self._shortest_trip = min(self._shortest_trip, on_wire)
            self._asked, self._answered_at = None, now
            if answer.error is not None:
                raise SourceLost(f"{self._settings.peer_name} answers: {answer.error}")
            if answer.frame is not None:
                picture = self._picture(answer.frame, parts[1] if len(parts) == 2 else b"", on_wire, now)
                if picture is not None:
                    self._times.on_frame(now, took, answer.frame.id, picture.captured_mono)
                return picture
        return None

    def _picture(self, frame: RemoteFrame, data: bytes, on_wire: float, now: float) -> EncodedPicture | None:
        if frame.width * frame.height > MAX_PIXELS:
            raise SourceLost(
                f"a frame of {frame.width}x{frame.height} pixels refused: at most {MAX_PIXELS} are allowed"
            )
        answer_took = on_wire - self._shortest_trip / 2
        if answer_took > LATE_S or (self._has is not None and frame.id <= self._has):
            return None
        self._has, self._frame_at = frame.id, now
        allow_pictures(frame.width * frame.height)
        return EncodedPicture(data, (frame.width, frame.height), frame.pts, now - frame.age - answer_took)
