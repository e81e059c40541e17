"""Answers of tasks as the rules see them, and the time between answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamer.core.boxes import Rect
from streamer.events.part import UnixSecond
from streamer.events.result_data import Snapshot

ANSWERED = frozenset({"ok", "empty"})


class Moment(NamedTuple):
    """The time of a frame."""

    epoch: int | None
    """Number of the connection; None for the state of a stream."""
    pts: float | None
    """Media time within the epoch."""
    wall: UnixSecond
    """Unix second, which jumps when the clock of the computer is set."""


@dataclass(slots=True)
class AnsweredTime:
    """Seconds in which there were answers: the time between two of them, without gaps of no answer.

    Within a connection the media time counts, so that setting the computer's clock makes no time.
    """

    seconds: float = 0.0
    last: Moment | None = None

    def advance(self, moment: Moment, answered: bool) -> float:
        """Count the time since the last answer, and return all seconds. Late answers add nothing."""
        if not answered:
            self.last = None
        elif self.last is None:
            self.last = moment
        else:
            elapsed = seconds_between(self.last, moment) if self.last.epoch == moment.epoch else 0.0
            if elapsed >= 0:
                self.seconds += elapsed
                self.last = moment
        return self.seconds


def seconds_between(before: Moment, after: Moment) -> float:
    """Return the media time within a connection, else the time of the clock."""
    if before.epoch == after.epoch and before.pts is not None and after.pts is not None:
        return after.pts - before.pts
    return after.wall - before.wall


class Shape(NamedTuple):
    """An object, or a recognized text, in an answer."""

    label: str
    score: float | None
    box: Rect
    track: int | None = None


class Observation(NamedTuple):
    """The outcome of a task on one frame."""

    event: str
    """Id of the event."""
    stream: str
    task: str
    moment: Moment
    seq: int | None
    outcome: Literal["answer", "unchanged", "none"]
    """`unchanged`: the answer before still holds. `none`: there is no answer."""
    model: str
    objects: Sequence[Shape] = ()
    by_label: Mapping[str, Sequence[Shape]] = {}
    """The objects by casefolded label."""
    texts: Sequence[Shape] = ()
    """Recognized texts with their places."""
    text: str | None = None
    score: float | None = None
    """Score of `text`."""
    parent: str | None = None
    """Id of the answer that a follow-up is about."""
    snapshot: Snapshot | None = None
