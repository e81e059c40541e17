"""What is to be drawn over a picture: the newest answers of all tasks of a stream, moved to its moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from streamer.events.schema import EventPoints, ResultEvent
from streamer.types import Box, FrameId, Image, Point
from streamer.video.box_follower import TemplateFollower
from streamer.video.box_motion import GONE, BoxMotion

ANSWERED = ("ok", "empty", "unchanged")
OLD_S = 3.0
OLD = 2.5
"""Answers are old after this many seconds, and after so many intervals of the task that is asked most often."""
MIN_CAPTION_S = 5.0
"""Text needs reading: it stays for so long, however often its task is asked."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A polygon, or the corners around a piece of text."""

    label: str
    score: float | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """What one task has to show."""

    boxes: tuple[Box, ...]
    outlines: tuple[Outline, ...]
    strength: float
    """1 fresh … 0 gone."""


@dataclass(frozen=True, slots=True)
class Overlay:
    layers: tuple[Layer, ...] = ()
    captions: tuple[str, ...] = ()
    note: str | None = None
    """How old the newest answer is, when it is old."""


@dataclass(slots=True)
class _Task:
    motion: BoxMotion
    at: float = 0.0
    outlines: tuple[Outline, ...] = ()
    text: str | None = None


def moment(epoch: int, pts: float | None, captured_at: float) -> float:
    """A frame's second in its connection; media time where there is one."""
    return captured_at - epoch / 1000 if pts is None else pts


@dataclass(slots=True)
class Overlays:
    """The answers of one stream so far."""

    intervals: Mapping[str, float]
    """Seconds between two answers, by task name."""
    expected: float | None
    """Of the task that is asked most often at all hours; None when there is none: then silence says nothing."""
    since: float
    """Monotonic second from which on an answer is waited for."""
    _epoch: int = 0
    _answered: float | None = None
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _follower: TemplateFollower = field(default_factory=TemplateFollower)

    def replan(self, intervals: Mapping[str, float], expected: float | None, now: float) -> None:
        """Other tasks from monotonic second `now` on: what only the old ones had to show is gone."""
        self.intervals, self.expected, self.since, self._answered = intervals, expected, now, None
        self._tasks = {name: task for name, task in self._tasks.items() if name in intervals}

    def add(self, event: ResultEvent, now: float) -> None:
        """One more result, at monotonic second `now`."""
        data = event.data
        if data.outcome not in ANSWERED or data.epoch < self._epoch:
            return
        self._begin(data.epoch)
        self._answered = now
        if data.result is None:
            return
        task = self._tasks.setdefault(data.name, _Task(BoxMotion(self.intervals.get(data.name, 1.0))))
        captured_at = datetime.fromisoformat(event.time).timestamp()
        task.at = moment(data.epoch, data.frame.pts, captured_at)
        task.motion.add(task.at, [Box(*box.box, box.label, box.score, box.track) for box in data.result.boxes])
        task.outlines = tuple(map(_outline, (*data.result.polygons, *data.result.quads)))
        task.text = data.result.text

    def see(self, frame: FrameId, at: float, image: Image) -> None:
        """The picture that `at` will be asked about next."""
        self._begin(frame.epoch)
        self._follower.see(at, image)

    def at(self, frame: FrameId, at: float, now: float) -> Overlay:
        """What to draw on that frame, of that moment, when it is shown at monotonic second `now`."""
        self._begin(frame.epoch)
        layers, captions = [], []
        for name, task in self._tasks.items():
            strength = task.motion.strength(at)
            boxes = self._boxes(name, task.motion, at) if strength else []
            outlines = task.outlines if strength and task.at <= at + 1e-6 else ()
            if boxes or outlines:
                layers.append(Layer(tuple(boxes), outlines, strength))
            elif task.text and at - task.at <= max(MIN_CAPTION_S, GONE * task.motion.interval):
                captions.append(task.text if len(self.intervals) == 1 else f"{name}: {task.text}")
        return Overlay(tuple(layers), tuple(captions), self.note(now))

    def _boxes(self, name: str, motion: BoxMotion, at: float) -> list[Box]:
        """Where they are seen in the picture; those that are not, where their velocity brings them."""
        before = motion.before(at)
        return [] if before is None else motion.at(at, self._follower.places(name, before))

    def note(self, now: float) -> str | None:
        """How old the newest answer is, when that is worth saying."""
        if self.expected is None:
            return None
        limit = max(OLD_S, OLD * self.expected)
        if self._answered is None:
            return f"no answer for {now - self.since:.0f} s" if now - self.since > limit else None
        age = now - self._answered
        return f"last answer {age:.0f} s ago" if age > limit else None

    def _begin(self, epoch: int) -> None:
        """A new connection: what was seen in the old one is no longer there."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._tasks.clear()
            self._follower.clear()


def _outline(points: EventPoints) -> Outline:
    return Outline(points.label, points.score, points.points)
