"""How long a step of the engine may take before it counts as stuck: by what such steps took before."""

from __future__ import annotations

from collections.abc import Iterable

from streamer.types import Job

MIN_S = 8.0
FIRST_S = 120.0
"""While something runs that this process has never seen to its end."""
TIMES = 5.0
"""Longer than the longest step so far."""
_FORGET = 0.99

Kind = tuple[str, str]


class StepTimeout:
    """Knows the longest step of each kind of task; one that was long once is slowly forgotten."""

    def __init__(self) -> None:
        self._longest: dict[Kind, float] = {}
        self._finished: set[Kind] = set()

    def seconds(self, jobs: Iterable[Job]) -> float:
        """Seconds for a step with these jobs in the engine."""
        kinds = {_kind(job) for job in jobs}
        if not kinds <= self._finished:
            return FIRST_S
        return max([MIN_S, *(TIMES * self._longest[kind] for kind in kinds)])

    def observe(self, jobs: Iterable[Job], finished: Iterable[Job], seconds: float) -> None:
        """A step with `jobs` in the engine, of which some finished with it."""
        for kind in {_kind(job) for job in jobs}:
            self._longest[kind] = max(seconds, self._longest.get(kind, 0.0) * _FORGET)
        self._finished.update(_kind(job) for job in finished)


def _kind(job: Job) -> Kind:
    return job.due.task.task, job.due.task.params.quality
