"""Requirements of the consumers' requests on the decoder: frame interval, motion detection, key frames only. Pure."""

from __future__ import annotations

import math

from streamer.bus.frame_protocol import MAX_WAIT_S, Fetch, FrameRequest

_MIN_VALID_S = 20.0
"""Seconds for which a request counts as demand, at least: a model may take that long for one batch."""
_FULL_DECODE_S = 20.0
"""Seconds of full decoding after a key frame was too old by the time its consumer fetched it."""
_UNUSED_S = 5.0
"""Seconds after which a need is void: its consumer died, or its model is much too slow."""


class DecodeDemand:
    """Combines the last requests of all consumers. `now` is always the monotonic time."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[FrameRequest, float]] = {}
        """Last request of each consumer, and the monotonic second at which it expires."""
        self._needs: dict[str, float] = {}
        """Monotonic second at which each consumer needs its next frame."""
        self._notified: set[str] = set()
        self._full_decode_until = 0.0

    def add(self, owner: str, request: FrameRequest, now: float) -> None:
        """Replace the consumer's demand by that of a new request."""
        self._requests[owner] = (request, now + max(_MIN_VALID_S, 2 * request.interval))

    def remove(self, owner: str) -> None:
        """Remove a dead consumer."""
        self._requests.pop(owner, None)
        self._needs.pop(owner, None)
        self._notified.discard(owner)

    def on_ready(self, owner: str) -> None:
        """The consumer was notified that a frame is ready; it fetches next."""
        self._notified.add(owner)

    def on_wait(self, owner: str, request: FrameRequest, now: float) -> None:
        """The consumer waits for a frame. One that waits for motion has no need of another frame."""
        if not request.on_trigger:
            self._needs[owner] = min(self._needs.get(owner, math.inf), now)

    def on_fetch(self, message: Fetch, keyframe_missed: bool, now: float) -> None:
        """A consumer fetched. `keyframe_missed`: only key frames are decoded, and none was recent enough for it.

        A consumer that misses the key frame it was notified of is too slow for key frames: decode all for a while.
        """
        if keyframe_missed and message.owner in self._notified:
            self._full_decode_until = now + _FULL_DECODE_S
        seconds = message.request.interval if message.next_need is None else message.next_need
        self._needs[message.owner] = now + seconds
        self._notified.discard(message.owner)

    def expire(self, now: float) -> None:
        """Remove expired demands."""
        self._requests = {owner: (request, until) for owner, (request, until) in self._requests.items() if until > now}
        self._needs = {owner: at for owner, at in self._needs.items() if at > now - _UNUSED_S}

    def interval(self, now: float) -> float:
        """Return the shortest interval in seconds that any consumer needs, 0 for every frame."""
        if now <= self._full_decode_until:
            return 0.0
        return min((request.interval for request, _ in self._requests.values()), default=MAX_WAIT_S)

    def next_need(self, now: float) -> float:
        """Return the monotonic second at which a frame is needed next: -inf while all are, inf while none is."""
        return min(self._needs.values(), default=math.inf) if self.interval(now) > 0 else -math.inf

    @property
    def motion(self) -> bool:
        """True if any consumer needs motion detection."""
        return any(request.motion_gates for request, _ in self._requests.values())
