"""Collects the newest answers of a stream's tasks and returns the overlay for a frame, with boxes moved to its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from streamer.events.result_data import EventPoints
from streamer.events.schema import ResultEvent
from streamer.types import Box, FrameId, Image
from streamer.video.box_follower import TemplateFollower
from streamer.video.box_motion import GONE_INTERVALS, BoxMotion

ANSWERED = ("ok", "empty", "unchanged")
"""Outcomes that count as an answer."""
OLD_S = 3.0
OLD_INTERVALS = 2.5
"""The newest answer is old after this many seconds and this many intervals of the most frequent task."""
MAX_DESCRIPTIONS = 256
"""Objects whose descriptions are kept."""
MIN_CAPTION_S = 5.0
"""Shortest display time of a caption, so that it can be read, whatever its task's interval."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The boxes and outlines of one task."""

    boxes: tuple[Box, ...]
    outlines: tuple[EventPoints, ...]
    strength: float
    """Opacity: 1 for a fresh answer, 0 for one that is no longer shown."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Everything to draw on one frame."""

    layers: tuple[Layer, ...] = ()
    captions: tuple[str, ...] = ()
    note: str | None = None
    """Age of the newest answer, when it is old."""
    descriptions: Mapping[int, str] = field(default_factory=dict)
    """Newest answer of a follow-up about an object, by track id."""


@dataclass(slots=True)
class _TaskState:
    """The newest answer of one task."""

    motion: BoxMotion
    at: float = 0.0
    """Media time of the answer's frame."""
    outlines: tuple[EventPoints, ...] = ()
    text: str | None = None


def media_time(epoch: int, pts: float | None, captured_at: float) -> float:
    """Return a frame's seconds since its epoch began: its media time, or the capture time if the source has none."""
    return captured_at - epoch / 1000 if pts is None else pts


@dataclass(slots=True)
class Overlays:
    """The answers of one stream. Media times are seconds since the epoch began."""

    intervals: Mapping[str, float]
    """Expected seconds between two answers, by task name."""
    shortest: float | None
    """Interval of the most frequent task that runs all day. None: there is none, so no answer is ever overdue."""
    since: float
    """Monotonic second since which an answer is expected."""
    _epoch: int = 0
    _answered_at: float | None = None
    """Monotonic second of the newest answer."""
    _tasks: dict[str, _TaskState] = field(default_factory=dict)
    _follower: TemplateFollower = field(default_factory=TemplateFollower)
    _descriptions: dict[int, str] = field(default_factory=dict)
    """Descriptions by track id, the oldest first."""

    def set_tasks(self, intervals: Mapping[str, float], shortest: float | None, now: float) -> None:
        """Replace the tasks at monotonic second `now`. Answers of removed tasks are no longer shown."""
        self.intervals, self.shortest, self.since, self._answered_at = intervals, shortest, now, None
        self._tasks = {name: task for name, task in self._tasks.items() if name in intervals}

    def add(self, event: ResultEvent, now: float) -> None:
        """Add a result that arrived at monotonic second `now`."""
        data = event.data
        if data.outcome not in ANSWERED or data.epoch < self._epoch:
            return
        self._set_epoch(data.epoch)
        self._answered_at = now
        captured_at = datetime.fromisoformat(event.time).timestamp()
        at = media_time(data.epoch, data.frame.pts, captured_at)
        if data.result is None:
            if data.name in self._tasks and self._tasks[data.name].text is not None:
                self._tasks[data.name].at = at  # the text still holds
            return
        if data.parent is not None and data.result.text is not None:
            self._describe(data.parent.track, data.result.text)
            return
        task = self._tasks.setdefault(data.name, _TaskState(BoxMotion(self.intervals.get(data.name, 1.0))))
        task.at = at
        task.motion.add(task.at, [Box(*box.box, box.label, box.score, box.track) for box in data.result.boxes])
        task.outlines = (*data.result.polygons, *data.result.quads)
        task.text = data.result.marked_text

    def add_image(self, frame: FrameId, at: float, image: Image) -> None:
        """Add a frame's image at media time `at`, so that boxes can be followed to it. Call before `at`."""
        self._set_epoch(frame.epoch)
        self._follower.add_image(at, image)

    def at(self, frame: FrameId, at: float, now: float) -> Overlay:
        """Return the overlay of a frame of media time `at`, shown at monotonic second `now`."""
        self._set_epoch(frame.epoch)
        layers, captions = [], []
        for name, task in self._tasks.items():
            strength = task.motion.strength(at)
            boxes = self._boxes(name, task.motion, at) if strength else []
            outlines = task.outlines if strength and task.at <= at + 1e-6 else ()
            if boxes or outlines:
                layers.append(Layer(tuple(boxes), outlines, strength))
            elif task.text and at - task.at <= max(MIN_CAPTION_S, GONE_INTERVALS * task.motion.interval):
                captions.append(task.text if len(self.intervals) == 1 else f"{name}: {task.text}")
        return Overlay(tuple(layers), tuple(captions), self.note(now), self._descriptions)

    def _boxes(self, name: str, motion: BoxMotion, at: float) -> list[Box]:
        """Return the boxes where they were found in the image, or else where their velocity moves them."""
        before = motion.before(at)
        return [] if before is None else motion.at(at, self._follower.places(name, before))

    def _describe(self, track: int | None, text: str) -> None:
        """Keep the text about an object; one about a shape without track is not shown."""
        if track is None:
            return
        self._descriptions.pop(track, None)
        self._descriptions[track] = text
        while len(self._descriptions) > MAX_DESCRIPTIONS:
            del self._descriptions[next(iter(self._descriptions))]

    def note(self, now: float) -> str | None:
        """Return the age of the newest answer as text, when it is old."""
        if self.shortest is None:
            return None
        limit = max(OLD_S, OLD_INTERVALS * self.shortest)
        if self._answered_at is None:
            return f"no answer for {now - self.since:.0f} s" if now - self.since > limit else None
        age = now - self._answered_at
        return f"last answer {age:.0f} s ago" if age > limit else None

    def _set_epoch(self, epoch: int) -> None:
        """Forget the answers of an older connection: its objects are no longer there."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._tasks.clear()
            self._descriptions.clear()
            self._follower.clear()
