"""Answers of tasks as the rules see them, and the time between answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from streamer.core.boxes import Rect
from streamer.events.part import UnixSecond
from streamer.events.result_data import Snapshot

ANSWERED = frozenset({"ok", "empty"})
ROUNDING_S = 1e-6
"""Larger than the rounding of sums of seconds, and smaller than any time between two frames."""


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
        last = self.last
        if not answered:
            self.last = None
        elif last is None or last.epoch != moment.epoch:
            self.last = moment
        elif (elapsed := seconds_between(last, moment)) >= 0:
            self.seconds += elapsed
            self.last = moment
        return self.seconds


def is_reached(limit: float, seconds: float) -> bool:
    """Return whether a limit is reached. A sum of seconds is rounded, and must reach its limit whatever was summed."""
    return seconds >= limit - ROUNDING_S


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


class Finding(NamedTuple):
    """The objects that made a condition true."""

    number: int
    best: Shape | None
    """The one with the best score."""


NOTHING = Finding(0, None)


class Selector(NamedTuple):
    """A choice among the objects of an answer. Equal ones of one stream choose the same objects."""

    label: str | None
    """Casefolded; None: any."""
    zone: str | None
    lowest: float | None
    """Lowest score, if one is needed."""


class Selection(NamedTuple):
    """The chosen objects."""

    shapes: Sequence[Shape]
    finding: Finding


@dataclass(slots=True)
class Observation:
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
    by_label: Mapping[str, Sequence[Shape]] = field(default_factory=dict)
    """The objects by casefolded label."""
    texts: Sequence[Shape] = ()
    """Recognized texts with their places."""
    text: str | None = None
    score: float | None = None
    """Score of `text`."""
    parent: str | None = None
    """Id of the answer that a follow-up is about."""
    snapshot: Snapshot | None = None
    selections: dict[Selector, Selection] = field(default_factory=dict)
    """The objects that the conditions of the rules have chosen so far: each choice is made once for all of them."""
