"""Which question kills the inference process: found by halving, and left out. Pure: the clock is passed in.

A process that died had some questions in its engine; all of them are suspects. The next one runs at most half of the
suspects at a time and nothing beside them, so that another death halves them again, and whatever ends well is cleared.
One that a process died with alone, and not for the first time, is guilty. Deaths for another reason clear up by
themselves, and a kill from outside makes nobody a suspect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from streamer.core.backoff import exponential
from streamer.types import FrameId, Job

PAUSE_S, MAX_PAUSE_S = 60.0, 3600.0
"""How long a task that kills is left out the first time; then twice as long, until it is an hour."""
FRAMES_OF_TASK = 3
"""Frames of a recording that may be guilty before their task is."""


class Suspect(NamedTuple):
    """A task of a stream; of a recording together with a frame, for there the same frame comes again."""

    stream: str
    name: str
    frame: FrameId | None


class Verdict(NamedTuple):
    """A question was found guilty."""

    question: Suspect
    deaths: int
    pause: float | None
    """Seconds for which the whole task is left out. None: only this frame is, for good."""


class Quarantine:
    """What is suspected and what is left out."""

    def __init__(self, recordings: Collection[str], state: Mapping[str, Any] | None = None) -> None:
        """`recordings`: names of the streams whose frames come again. `state`: as `state` gave it, maybe elsewhere."""
        self._recordings = recordings
        given = state or {"suspects": [], "frames": [], "tasks": []}
        self._suspects = {_question(words): int(deaths) for words, deaths in given["suspects"]}
        """With the deaths they were there at."""
        self._frames = {_question(words) for words in given["frames"]}
        """Guilty frames of recordings."""
        self._until = {_question(words): float(until) for words, until, _ in given["tasks"]}
        """Guilty tasks, with the monotonic second at which they are tried again."""
        self._times = Counter({_question(words): int(times) for words, _, times in given["tasks"]})

    def state(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "suspects": [[*pair] for pair in self._suspects.items()],
            "frames": list(self._frames),
            "tasks": [[task, self._until.get(task, 0.0), times] for task, times in self._times.items()],
        }

    def suspect(self, job: Job) -> Suspect:
        due = job.due
        return Suspect(due.stream, due.task.name, job.frame.id if due.stream in self._recordings else None)

    def on_crash(self, running: Collection[Suspect], now: float) -> Verdict | None:
        """The process died with these in its engine."""
        if not running:
            return None
        both = {question: deaths + 1 for question, deaths in self._suspects.items() if question in running}
        self._suspects = both or {**self._suspects, **dict.fromkeys(running, 1)}
        (question, *others) = running
        if others or (deaths := self._suspects[question]) < 2:
            return None
        del self._suspects[question]
        return Verdict(question, deaths, self._block(question, now))

    def on_finished(self, question: Suspect) -> None:
        """It ended well."""
        self._suspects.pop(question, None)

    def is_blocked(self, question: Suspect, now: float) -> bool:
        """It is left out."""
        if question in self._frames:
            return True
        return now < self._until.get(question._replace(frame=None), 0.0)

    def admit(self, waiting: Sequence[Suspect], running: Collection[Suspect]) -> list[bool]:
        """Which of these may run beside what runs now: suspects first, and among themselves."""
        suspected = [question in self._suspects for question in waiting]
        tried = sum(question in self._suspects for question in running)
        if not any(suspected) and not tried:
            return [True] * len(waiting)
        room = 0 if len(running) > tried else max(1, len(self._suspects) // 2) - tried
        admitted = []
        for is_suspect in suspected:
            admitted.append(is_suspect and room > 0)
            room -= admitted[-1]
        return admitted

    def _block(self, question: Suspect, now: float) -> float | None:
        task = question._replace(frame=None)
        self._times[task] += 1
        times = self._times[task]
        if question.frame is not None:
            self._frames.add(question)
            if times < FRAMES_OF_TASK:
                return None
            times -= FRAMES_OF_TASK - 1
        pause = exponential(PAUSE_S, MAX_PAUSE_S, times)
        self._until[task] = now + pause
        return pause


def _question(words: Any) -> Suspect:
    stream, name, frame = words
    return Suspect(stream, name, None if frame is None else FrameId(*frame))
