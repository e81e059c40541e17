"""One connection of a source: what its end means to capture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamer.capture.connection import Connection
from streamer.capture.frame_slot import LatestFrameSlot
from streamer.capture.interfaces import Source
from streamer.capture.motion_gate import MotionDetector, MotionSettings
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.core.errors import SourceLost
from streamer.types import Pace


@dataclass
class HungrySource:
    """A source for which there is not enough memory."""

    modules: ClassVar[tuple[str, ...]] = ()
    pace: Pace = "live"

    def open(self, read_limit: float = 15.0) -> Source:
        raise MemoryError


def test_lack_of_memory_is_a_lost_source() -> None:
    slot = LatestFrameSlot(lambda: None)
    detector = MotionDetector(MotionSettings(), {})
    connection = Connection(HungrySource(), slot, 1, SilenceTimeout(), lambda: None, detector)
    connection.run()
    assert isinstance(connection.outcome, SourceLost)
    assert str(connection.outcome) == "no memory is left"  # this process has no limit of its own
