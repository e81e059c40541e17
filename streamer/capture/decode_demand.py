"""Requirements of the consumers' requests on the decoder: frame interval, motion detection, key frames only. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.bus.frame_protocol import MAX_WAIT_S, FrameRequest

_MIN_VALID_S = 20.0
"""Seconds for which a request counts as demand, at least: a model may take that long for one batch."""
_FULL_DECODE_S = 20.0
"""Seconds of full decoding after a key frame was too old by the time its consumer fetched it."""


@dataclass(frozen=True, slots=True)
class _Demand:
    """One consumer's last request."""

    interval: float
    """Seconds between the frames it needs."""
    motion: bool
    """It has motion gates."""
    until: float
    """Monotonic second at which this expires."""


class DecodeDemand:
    """Combines the last requests of all consumers. `now` is always the monotonic time."""

    def __init__(self) -> None:
        self._demands: dict[str, _Demand] = {}
        self._notified: set[str] = set()
        self._full_decode_until = 0.0

    def add(self, owner: str, request: FrameRequest, now: float) -> None:
        """Replace the consumer's demand by that of a new request."""
        until = now + max(_MIN_VALID_S, 2 * request.interval)
        self._demands[owner] = _Demand(request.interval, bool(request.motion_gates), until)

    def remove(self, owner: str) -> None:
        """Remove a dead consumer."""
        self._demands.pop(owner, None)
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
        self._demands = {owner: demand for owner, demand in self._demands.items() if demand.until > now}

    def interval(self, now: float) -> float:
        """Return the shortest interval in seconds that any consumer needs, 0 for every frame."""
        if now <= self._full_decode_until:
            return 0.0
        return min((demand.interval for demand in self._demands.values()), default=MAX_WAIT_S)

    @property
    def motion(self) -> bool:
        """True if any consumer needs motion detection."""
        return any(demand.motion for demand in self._demands.values())
