"""The thread that reads one connection of a source into the shelf. It alone may hang in a library."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from streamer.capture.frame_slot import DecodedFrame, FrameSlot
from streamer.capture.motion_gate import EVERY_S, MotionDetector
from streamer.capture.silence_timeout import SilenceTimeout
from streamer.core.errors import SourceEnded, SourceLost
from streamer.types import MAX_PIXELS, FrameId, Picture, Source, SourceSettings

log = logging.getLogger(__name__)

_MAX_JUMP_S = 1.0
_EARLY_S = 0.02
"""A picture that comes so much too early is looked at nevertheless: the next one would be too late."""
_LEAP_S = 10.0
"""A live source's clock that goes so much further than the time that passed was set anew."""


class MediaClock:
    """Media time of one connection: 0 at its first picture, and never going back."""

    def __init__(self, live: bool = True) -> None:
        self._live = live
        self._offset: float | None = None
        self._last: float | None = None
        self._last_mono = 0.0

    def stamp(self, pts: float | None, mono: float) -> float | None:
        """Seconds since the first picture for a source's own `pts`, at the monotonic second `mono`.

        The first picture of an RTSP stream has no pts and counts as 0; a later one without stays without. When the
        source's clock jumps back (a loop, a reset), or a live one's ahead, it goes on from the last time.
        """
        if pts is None:
            if self._last is not None:
                return None
            self._last, self._last_mono = 0.0, mono
            return 0.0
        if self._offset is None or self._jumps(pts + self._offset, mono):
            self._offset = self._continued(mono) - pts
        self._last, self._last_mono = pts + self._offset, mono
        return self._last

    def _jumps(self, time: float, mono: float) -> bool:
        if self._last is None:
            return False
        return time < self._last or (self._live and time - self._last > mono - self._last_mono + _LEAP_S)

    def _continued(self, mono: float) -> float:
        if self._last is None:
            return 0.0
        return self._last + min(mono - self._last_mono, _MAX_JUMP_S)


class Connection(threading.Thread):
    """Opens a source once and puts its pictures on the shelf until it ends, fails or the shelf refuses them."""

    def __init__(
        self,
        settings: SourceSettings,
        slot: FrameSlot,
        epoch: int,
        silence_timeout: SilenceTimeout,
        notice: Callable[[], None],
        make_watch: Callable[[], MotionDetector],
    ) -> None:
        """`notice` is called from the thread at the first picture and at the end.

        `make_watch`: of what tells whether something happens, if somebody wants to know.
        """
        super().__init__(name=f"connection-{epoch}", daemon=True)
        self.epoch = epoch
        self.first_picture: float | None = None
        """Monotonic second of the first picture."""
        self.waiting_since: float | None = time.monotonic()
        """Monotonic second since when it waits for the source; None while it does not."""
        self.note: str | None = None
        """What the user should know of how the source runs."""
        self.outcome: BaseException | None = None
        """How it ended: SourceEnded, SourceLost, or what must end the process. None before."""
        self._settings = settings
        self._slot = slot
        self._silence_timeout = silence_timeout
        self._notice = notice
        self._make_motion_detector = make_watch

    def run(self) -> None:
        try:
            self._connect()
            self.outcome = SourceEnded()
        except SourceLost as error:
            self.outcome = type(error)(*error.args)  # a new one: the old one's frames hold the decoder and its threads
        except BaseException as error:  # for the main thread to judge: nothing may end in silence here
            self.outcome = error
        self._notice()

    def _connect(self) -> None:
        source = self._settings.open(self._silence_timeout.seconds())
        try:
            self._read(source)
        finally:
            source.close()

    def _read(self, source: Source) -> None:
        clock = MediaClock(live=self._settings.pace == "live")
        watch, looked, scene = self._make_motion_detector(), -math.inf, None
        seq = 0
        self.note = source.note
        for picture in source:
            self._slot.keyframes_only = source.set_interval(self._slot.interval)
            if picture is None:
                self._observe_gap(time.monotonic())
            else:
                shot = self._stamp(picture, clock, seq)
                if self._slot.motion_needed and shot.captured_mono - looked >= EVERY_S - _EARLY_S:
                    looked, scene = shot.captured_mono, watch.update(picture.luma(), seq)
                if self._slot.motion_needed:
                    shot = replace(shot, scene=scene)
                seq += 1
                self._observe_gap(shot.captured_mono)
                self.waiting_since = None
                if not self._slot.put(shot):
                    return
                self._count_first(shot)
            self.waiting_since = time.monotonic()

    def _stamp(self, picture: Picture, clock: MediaClock, seq: int) -> DecodedFrame:
        if picture.width * picture.height > MAX_PIXELS:
            raise SourceLost(f"a picture of {picture.width}x{picture.height} is too large")
        mono = time.monotonic()
        return DecodedFrame(FrameId(self.epoch, seq), time.time(), mono, clock.stamp(picture.pts, mono), picture)

    def _observe_gap(self, mono: float) -> None:
        if self.first_picture is None:
            self._silence_timeout.connected()
        elif self.waiting_since is not None:
            self._silence_timeout.observe_gap(mono - self.waiting_since)

    def _count_first(self, shot: DecodedFrame) -> None:
        if self.first_picture is None:
            self.first_picture = shot.captured_mono
            self._notice()
