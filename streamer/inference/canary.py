"""A test job that shows that answers still come out: it runs when no task has produced an answer for a while.

It takes the same way as every job: engine, event, ledger, sinks, page. While tasks produce answers, these show the
same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from streamer.config.model import Stream
from streamer.types import DueTask, Frame, Job, Outcome

INTERVAL_S = 30.0
FIRST_S = 5.0
"""Delay of the first canary after the start, if no answer has come out by then."""
NO_EPOCH = 0
"""The epoch of a picture that no camera made."""
SIZE = 240, 320


class Canary:
    """Makes the test job when it is due."""

    def __init__(self, streams: Callable[[], Mapping[str, Stream]]) -> None:
        """`streams` returns the streams with their present tasks, which change while the agent runs."""
        self._streams = streams
        self._last = time.monotonic() - INTERVAL_S + FIRST_S

    def on_outcome(self, outcome: Outcome) -> None:
        """Postpone the canary if the outcome is an answer."""
        if outcome in ("ok", "empty"):
            self._last = time.monotonic()

    def due_job(self, may_run: Callable[[Job], bool]) -> Job | None:
        """Return a job with a grey picture for the first task that `may_run` accepts; None while none is due."""
        if time.monotonic() - self._last < INTERVAL_S:
            return None
        self._last = time.monotonic()
        picture = np.full((*SIZE, 3), 128, np.uint8)
        picture.flags.writeable = False
        for name, task in [(name, task) for name, stream in self._streams().items() for task in stream.tasks]:
            frame = Frame(name, NO_EPOCH, 0, time.time(), time.monotonic(), 0.0, picture)
            job = Job(DueTask(name, replace(task, max_age=None), -math.inf, origin="canary"), frame)
            if may_run(job):
                return job
        return None
