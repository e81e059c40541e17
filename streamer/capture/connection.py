"""The thread that decodes one connection of a source into the frame slot. Only it may hang in a library call."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from streamer.capture.frame_slot import DecodedFrame, FrameSlot
from streamer.capture.interfaces import Dated, Picture, RestingSource, Source, SourceSettings
from streamer.capture.media_clock import MediaClock
from streamer.capture.motion_gate import INTERVAL_S, MotionDetector, SceneState
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.core.errors import FrameError, SourceEnded, SourceLost
from streamer.core.memory_limit import over_limit
from streamer.core.picture_limits import MAX_PIXELS, MAX_SIDE
from streamer.types import FrameId

_INTERVAL_TOLERANCE_S = 0.02
"""A frame this much earlier than `INTERVAL_S` is analysed nevertheless: the next one would be too late."""


class Connection(threading.Thread):
    """Opens a source once and stores its frames until the source ends or fails, or the slot rejects a frame."""

    def __init__(
        self,
        settings: SourceSettings,
        slot: FrameSlot,
        epoch: int,
        silence_timeout: SilenceTimeout,
        notify: Callable[[], None],
        detector: MotionDetector,
    ) -> None:
        """`notify` is called from this thread at the first frame and at the end."""
        super().__init__(name=f"connection-{epoch}", daemon=True)
        self.first_frame: float | None = None
        """Monotonic second of the first frame."""
        self.waiting_since: float | None = time.monotonic()
        """Monotonic second since which it waits for the source. None: it does not."""
        self.note: str | None = None
        """Note for the user on how the source runs."""
        self.outcome: BaseException | None = None
        """SourceEnded, SourceLost, or an error that must end the process. None: it runs."""
        self._epoch = epoch
        self._settings = settings
        self._slot = slot
        self._silence_timeout = silence_timeout
        self._notify = notify
        self._detector = detector

    def run(self) -> None:
        try:
            with closing(self._settings.open(self._silence_timeout.seconds())) as source:
                self._read(source)
            self.outcome = SourceEnded()
        except (SourceLost, SourceEnded) as error:
            self.outcome = type(error)(*error.args)  # a copy: the original's traceback keeps the decoder alive
        except MemoryError:
            self.outcome = SourceLost(over_limit())
        except BaseException as error:  # the main thread raises it again: no error may be lost
            self.outcome = error
        self._notify()

    def _read(self, source: Source) -> None:
        clock = MediaClock(live=self._settings.pace == "live")
        analysed_at, scene = -math.inf, None
        seq = 0
        resting = source if isinstance(source, RestingSource) else None
        self._slot.wake_source = None if resting is None else resting.wake
        for picture in source:
            self._slot.keyframes_only = source.set_interval(self._slot.interval)
            if picture is None:
                self._observe_gap(time.monotonic())
            else:
                arrived = time.monotonic()
                frame = self._stamp(picture, clock, seq, arrived)
                if self._slot.motion_needed:
                    if frame.captured_mono - analysed_at >= INTERVAL_S - _INTERVAL_TOLERANCE_S:
                        analysed_at, scene = frame.captured_mono, self._analyse(picture, seq) or scene
                    frame = replace(frame, scene=scene)
                seq += 1
                self._observe_gap(arrived)
                self.waiting_since = None
                if not self._slot.put(frame):
                    return
                self._on_frame(frame, source.note)
            if resting is not None and resting.rests(self._slot.needed_at):
                self._slot.discard_newest()
            self.waiting_since = time.monotonic()

    def _stamp(self, picture: Picture, clock: MediaClock, seq: int, arrived: float) -> DecodedFrame:
        _check_size(picture.width, picture.height)
        mono = min(arrived, picture.captured_mono) if isinstance(picture, Dated) else arrived
        captured_at = time.time() - (arrived - mono)
        return DecodedFrame(FrameId(self._epoch, seq), captured_at, mono, clock.stamp(picture.pts, mono), picture)

    def _analyse(self, picture: Picture, seq: int) -> SceneState | None:
        """Return the state of the scene, None for a picture that cannot be converted."""
        try:
            return self._detector.update(picture.luma(), seq)
        except FrameError:
            return None  # the frame server counts it when a consumer fetches it

    def _observe_gap(self, mono: float) -> None:
        if self.first_frame is None:
            self._silence_timeout.connected()
        elif self.waiting_since is not None:
            self._silence_timeout.observe_gap(mono - self.waiting_since)

    def _on_frame(self, frame: DecodedFrame, note: str | None) -> None:
        if self.first_frame is None:
            self.note = note
            self.first_frame = frame.captured_mono
            self._notify()


def _check_size(width: Any, height: Any) -> None:
    """Raise SourceLost for a frame that no buffer or JPEG can hold. Libraries are not trusted to return numbers."""
    valid = all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (width, height))
    if not valid or width * height > MAX_PIXELS:
        limits = f"1 to {MAX_SIDE} pixels a side, {MAX_PIXELS} pixels in all"
        raise SourceLost(f"frame of {width}x{height} pixels refused: the limits are {limits}")
