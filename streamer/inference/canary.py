"""A test job that shows that answers still come out: it runs when no task has produced an answer for a while.

It takes the same way as every job: engine, event, ledger, sinks, page. While tasks produce answers, these show the
same.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from streamer.inference.in_flight import InFlight
from streamer.inference.journal import NO_EPOCH
from streamer.inference.requests import RequestHandler
from streamer.types import DueTask, Frame, Job, Outcome

INTERVAL_S = 30.0
FIRST_S = 5.0
"""Delay of the first canary after the start, if no answer has come out by then."""
SIZE = 240, 320


class Canary:
    """Adds the test job when it is due."""

    def __init__(self, requests: RequestHandler, in_flight: InFlight) -> None:
        """`requests` knows the present tasks of the streams, which change while the agent runs."""
        self._requests, self._in_flight = requests, in_flight
        self._last = time.monotonic() - INTERVAL_S + FIRST_S

    def on_outcome(self, outcome: Outcome) -> None:
        """Postpone the canary if the outcome is an answer."""
        if outcome in ("ok", "empty"):
            self._last = time.monotonic()

    def add_if_due(self) -> None:
        """If due, add a job with a grey picture for the first task here that is neither blocked nor suspected."""
        if time.monotonic() - self._last < INTERVAL_S:
            return
        self._last = time.monotonic()
        quarantine = self._in_flight.quarantine
        picture = np.full((*SIZE, 3), 128, np.uint8)
        picture.flags.writeable = False
        for name, task in [(name, task) for name, stream in self._requests.served().items() for task in stream.tasks]:
            frame = Frame(name, NO_EPOCH, 0, time.time(), time.monotonic(), 0.0, picture)
            job = Job(DueTask(name, replace(task, max_age=None), -math.inf, origin="canary"), frame)
            if quarantine.is_clear(quarantine.as_suspect(job), time.monotonic()):
                self._in_flight.open_frame(frame, [job])
                return
