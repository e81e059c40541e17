"""The time after which a step of the engine counts as stuck, from the duration of earlier steps."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from streamer.types import Job

MIN_S = 8.0
FIRST_S = 120.0
"""Timeout while a kind of task runs that has never finished in this process."""
FACTOR = 5.0
"""Timeout in multiples of the longest step so far."""
_DECAY = 0.99
"""Factor per step by which the longest step is forgotten."""


class StepTimeout:
    """Records the longest step of each kind of task, with a slow decay."""

    def __init__(self) -> None:
        self._longest: dict[Hashable, float] = {}
        self._finished: set[Hashable] = set()

    def seconds(self, jobs: Iterable[Job]) -> float:
        """Return the timeout in seconds of a step with these jobs in the engine."""
        kinds = {job.due.task.work for job in jobs}
        if not kinds <= self._finished:
            return FIRST_S
        return max([MIN_S, *(FACTOR * self._longest[kind] for kind in kinds)])

    def observe(self, jobs: Iterable[Job], finished: Iterable[Job], seconds: float) -> None:
        """Record a step of `seconds` with `jobs` in the engine, of which `finished` finished."""
        for kind in {job.due.task.work for job in jobs}:
            self._longest[kind] = max(seconds, self._longest.get(kind, 0.0) * _DECAY)
        self._finished.update(job.due.task.work for job in finished)
