"""A question of the program's own, asked when nothing else came out for a while: would an answer still come out?

It goes the whole line: engine, event, ledger, sinks, page. While real answers come out, they show the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from streamer.config.model import Stream
from streamer.types import DueTask, Frame, Job, Outcome

EVERY_S = 30.0
FIRST_S = 5.0
"""After the start, when no answer has come out by then."""
NO_EPOCH = 0
"""The epoch of a picture that no camera made."""
SIZE = 240, 320


class Canary:
    """Knows when an answer last came out."""

    def __init__(self, streams: Callable[[], Mapping[str, Stream]]) -> None:
        """`streams`: gives them as they are now, for tasks change while the agent runs."""
        self._streams = streams
        self._last = time.monotonic() - EVERY_S + FIRST_S

    def on_outcome(self, outcome: Outcome) -> None:
        """An answer came out, if it is one."""
        if outcome in ("ok", "empty"):
            self._last = time.monotonic()

    def job(self, may: Callable[[Job], bool]) -> Job | None:
        """A task of the agent about a grey picture, the first that `may` run; None while it is not yet time."""
        if time.monotonic() - self._last < EVERY_S:
            return None
        self._last = time.monotonic()
        picture = np.full((*SIZE, 3), 128, np.uint8)
        picture.flags.writeable = False
        for name, task in [(name, task) for name, stream in self._streams().items() for task in stream.tasks]:
            frame = Frame(name, NO_EPOCH, 0, time.time(), time.monotonic(), 0.0, picture)
            job = Job(DueTask(name, task, math.inf), frame)
            if may(job):
                return job
        return None
