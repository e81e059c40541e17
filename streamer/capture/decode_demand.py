"""Requirements of the consumers' requests on the decoder: frame interval, motion detection, key frames only. Pure."""

from __future__ import annotations

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest

_MIN_VALID_S = 20.0
"""Seconds for which a request counts as demand, at least: a model may take that long for one batch."""
_FULL_DECODE_S = 20.0
"""Seconds of full decoding after a key frame was too old by the time its consumer fetched it."""


class DecodeDemand:
    """Combines the last requests of all consumers. `now` is always the monotonic time."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[FrameRequest, float]] = {}
        """Last request of each consumer, and the monotonic second at which it expires."""
        self._notified: set[str] = set()
        self._full_decode_until = 0.0

    def add(self, owner: str, request: FrameRequest, now: float) -> None:
        """Replace the consumer's demand by that of a new request."""
        self._requests[owner] = (request, now + max(_MIN_VALID_S, 2 * request.interval))

    def remove(self, owner: str) -> None:
        """Remove a dead consumer."""
        self._requests.pop(owner, None)
        self._notified.discard(owner)

    def on_ready(self, owner: str) -> None:
        """The consumer was notified that a frame is ready; it fetches next."""
        self._notified.add(owner)

    def on_fetch(self, owner: str, keyframe_missed: bool, now: float) -> None:
        """The consumer fetched. `keyframe_missed`: only key frames are decoded, and none was recent enough for it.

        A consumer that misses the key frame it was notified of is too slow for key frames: decode all for a while.
        """
        if keyframe_missed and owner in self._notified:
            self._full_decode_until = now + _FULL_DECODE_S
        self._notified.discard(owner)

    def expire(self, now: float) -> None:
        """Remove expired demands."""
        self._requests = {owner: (request, until) for owner, (request, until) in self._requests.items() if until > now}

    def interval(self, now: float) -> float:
        """Return the shortest interval in seconds that any consumer needs, 0 for every frame."""
        if now <= self._full_decode_until:
            return 0.0
        return min((request.interval for request, _ in self._requests.values()), default=MAX_WAIT_S)

    @property
    def motion(self) -> bool:
        """True if any consumer needs motion detection."""
        return any(request.motion_gates for request, _ in self._requests.values())
