"""Finds the task that kills the inference process and blocks it. Pure: the clock is passed in.

All jobs that a dead process had in its engine are suspects. From then on suspects run one at a time with nothing
beside them. A suspect whose run ends is cleared. A suspect that a second process dies with, alone, is guilty: its
task is blocked for a while, and a frame of a recording for good. A process that was killed from outside has no
suspects. So a guilty task costs two deaths, whatever the size of the first batch and the number of processes.

The parent counts the deaths and keeps the quarantine of the agent. An inference process has the rows of the streams
that it serves: they come and go with the stream.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from streamer.bus.stream_state import NO_ROWS, QuarantineRows, SuspectKey
from streamer.core.backoff import exponential
from streamer.types import FrameId, Job

T = TypeVar("T")

PAUSE_S, MAX_PAUSE_S = 60.0, 3600.0
"""Seconds for which a guilty task is blocked the first time, then twice as long each time, up to an hour."""
DEATHS = 2
"""Deaths of the process that make a suspect guilty."""
FRAMES_OF_TASK = 3
"""Guilty frames of a recording at which their task is blocked too."""


class Suspect(NamedTuple):
    """A task of a stream; of a recording one frame of it, because the same frame is fetched again."""

    stream: str
    name: str
    frame: FrameId | None


class Verdict(NamedTuple):
    """A suspect was found guilty."""

    suspect: Suspect
    deaths: int
    pause: float | None
    """Seconds for which the whole task is blocked. None: only this frame is blocked, for good."""

    def describe(self) -> str:
        where = f" in frame {self.suspect.frame.seq}" if self.suspect.frame else ""
        blocked = f"the task is blocked for {self.pause:g} s" if self.pause else "this frame is skipped"
        return f"task {self.suspect.name}{where} ended the inference process {self.deaths} times: {blocked}"


class Quarantine:
    def __init__(self, recordings: Collection[str], rows: QuarantineRows = NO_ROWS) -> None:
        """`recordings`: names of the streams whose frames are fetched again. `rows`: see `add`."""
        self._recordings = recordings
        self._suspects = Counter[Suspect]()
        """Deaths of the process at which each of them was running."""
        self._until: dict[Suspect, float] = {}
        """Monotonic second at which a guilty task is tried again; infinity for a guilty frame of a recording."""
        self._verdicts = Counter[Suspect]()
        """Verdicts by task."""
        self.add(rows)

    def rows(self, streams: Collection[str] | None = None) -> QuarantineRows:
        """Return what is known of these streams, or of all, as JSON data."""

        def of(table: Mapping[Suspect, T]) -> list[tuple[SuspectKey, T]]:
            return [(one, value) for one, value in table.items() if streams is None or one.stream in streams]

        return of(self._suspects), of(self._until), of(self._verdicts)

    def add(self, rows: QuarantineRows) -> None:
        """Take over what `rows` of another process returned."""
        suspects, until, verdicts = rows
        self._suspects.update({_suspect(key): value for key, value in suspects})
        self._until.update({_suspect(key): value for key, value in until})
        self._verdicts.update({_suspect(key): value for key, value in verdicts})

    def forget(self, stream: str) -> None:
        """Remove all rows of a stream: another process has them."""
        tables: tuple[dict[Suspect, Any], ...] = (self._suspects, self._until, self._verdicts)
        for table in tables:
            for suspect in [suspect for suspect in table if suspect.stream == stream]:
                del table[suspect]

    def as_suspect(self, job: Job) -> Suspect:
        return self.suspect_of(job.due.stream, job.due.task.name, job.frame.id)

    def suspect_of(self, stream: str, name: str, frame: FrameId) -> Suspect:
        return Suspect(stream, name, frame if stream in self._recordings else None)

    def on_crash(self, running: Collection[Suspect], now: float) -> Verdict | None:
        """The process died while its engine had these. Return the verdict if one of them is guilty now."""
        self._suspects.update(running)
        if len(running) != 1:
            return None
        (suspect,) = running
        if self._suspects[suspect] < DEATHS:
            return None
        return Verdict(suspect, self._suspects.pop(suspect), self._block(suspect, now))

    def on_finished(self, suspect: Suspect) -> None:
        """A run ended without a crash: the suspect is cleared."""
        self._suspects.pop(suspect, None)

    def is_blocked(self, suspect: Suspect, now: float) -> bool:
        return any(now < self._until.get(key, 0.0) for key in (suspect, suspect._replace(frame=None)))

    def is_clear(self, suspect: Suspect, now: float) -> bool:
        """Return whether it is neither blocked nor suspected."""
        return suspect not in self._suspects and not self.is_blocked(suspect, now)

    def may_run(self, waiting: Sequence[Suspect], running: Collection[Suspect]) -> list[bool]:
        """Return which of `waiting` may run beside `running`: one suspect alone, or all where none is suspected."""
        if not self._suspects.keys().isdisjoint(running):
            return [False] * len(waiting)
        first = next((place for place, suspect in enumerate(waiting) if suspect in self._suspects), None)
        if first is None:
            return [True] * len(waiting)
        return [place == first and not running for place in range(len(waiting))]

    def _block(self, suspect: Suspect, now: float) -> float | None:
        task = suspect._replace(frame=None)
        self._verdicts[task] += 1
        count = self._verdicts[task]
        if suspect.frame is not None:
            self._until[suspect] = math.inf
            if count < FRAMES_OF_TASK:
                return None
            count -= FRAMES_OF_TASK - 1
        pause = exponential(PAUSE_S, MAX_PAUSE_S, count)
        self._until[task] = now + pause
        return pause


def _suspect(key: SuspectKey) -> Suspect:
    stream, name, frame = key
    return Suspect(stream, name, None if frame is None else FrameId(*frame))
