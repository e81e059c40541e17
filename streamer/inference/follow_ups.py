"""Follow-ups (`then`): questions about the shapes, or the text, of an answer, on the same frame.

They run when the engine has room, after the scheduled tasks of their priority, and are stale once their parent's task
is due again. Times are those of frames: media time, else the unix second of capture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from pydantic import ValidationError

from streamer.config.follow_up import FollowUp
from streamer.core.boxes import Rect, iou
from streamer.events.result_data import EventFollowUps, LeftOut
from streamer.types import (
    Answer,
    DueTask,
    Frame,
    Image,
    Job,
    Outcome,
    Parent,
    Point,
    Polygon,
    Quad,
    Region,
    Result,
    Task,
)

MIN_PIXELS = 8
"""Smallest width and height of a shape that gets a follow-up; of a smaller one the model sees nothing."""
MAX_SHAPES = 512
"""Shapes that are remembered per follow-up; beyond, the least recently seen are forgotten."""
SAME_IOU = 0.5
"""Overlap from which on shapes without a track, in two answers, are the same object."""
THUMBNAIL = 16
"""Pixels per side of the thumbnail in which the pictures of a shape are compared."""
CHANGED_LEVELS = 12.0
"""Mean difference of two thumbnails, of 255 levels, from which on the picture of a shape has changed. The noise of a
camera is 2 levels, an object that was turned or replaced makes more than 20."""

ANSWERED: tuple[Outcome, ...] = ("ok", "empty")


class Shape(NamedTuple):
    """A part of an answer. A text is one shape without region."""

    number: int
    """Its number in the answer."""
    label: str | None
    score: float
    track: int | None
    region: Region | None
    text: str | None = None


@dataclass(slots=True)
class _Seen:
    """A shape that got a follow-up."""

    shape: Shape
    at: float
    """Time of the follow-up's frame."""
    picture: Any
    """Thumbnail, or the text. None unless the follow-up runs on changes."""


@dataclass(slots=True)
class _Memory:
    """The shapes that got a follow-up of one task, in one connection."""

    epoch: int
    seen: dict[tuple[int, ...], _Seen] = field(default_factory=dict)
    """Keys: epoch, frame number and path of the follow-up; the least recently seen shape first."""


class FollowUps:
    """Plans the follow-ups of answers, and remembers what was asked before. Not thread-safe."""

    def __init__(self) -> None:
        self._memories: dict[tuple[str, str], _Memory] = {}

    def plan(self, result: Result, event: str, share: float = 1.0) -> tuple[list[Job], EventFollowUps | None]:
        """Return the jobs about a result, whose event has the id `event`, and their counts.

        `share`: the part of `most` that the device has time for.
        """
        then: tuple[FollowUp, ...] = getattr(result.job.due.task, "then", ())
        if not then or result.outcome not in ANSWERED:
            return [], None
        jobs: list[Job] = []
        left_out: Counter[LeftOut] = Counter()
        for follow_up in then:
            for shape in self._chosen(follow_up, result, left_out, share):
                parent = Parent(event, (*_path(result), shape.number), shape.label, shape.track, shape.region)
                job = follow_up_job(follow_up, parent, result.job.frame, result.job.due.deadline, shape.text)
                if job is None:
                    left_out["unusable"] += 1
                else:
                    jobs.append(job)
                    self._remember(job, shape)
        return jobs, EventFollowUps(asked=len(jobs), left_out={key: count for key, count in left_out.items() if count})

    def on_outcome(self, result: Result) -> None:
        """Forget that a shape got a follow-up if this is the outcome of it and there is no answer."""
        due = result.job.due
        memory = self._memories.get((due.stream, due.task.name))
        if due.parent is not None and memory is not None and result.outcome not in ANSWERED:
            memory.seen.pop(_key(result.job), None)

    def _chosen(self, follow_up: FollowUp, result: Result, left_out: Counter[LeftOut], share: float) -> Iterator[Shape]:
        """Yield the shapes that get this follow-up; count the others that should."""
        frame = result.job.frame
        shapes = [one for one in _shapes(result.answer) if not follow_up.labels or one.label in follow_up.labels]
        large = [shape for shape in shapes if shape.region is None or _is_large(shape.region, frame)]
        left_out["small"] += len(shapes) - len(large)
        memory = self._memory(result.job.due.stream, follow_up, frame)
        due = [shape for shape in large if _is_due(follow_up, shape, memory, frame)]
        due.sort(key=lambda shape: -shape.score)
        room = int(follow_up.most * share)
        left_out["most"] += len(due[follow_up.most :])
        left_out["overload"] += len(due[room : follow_up.most])
        yield from due[:room]

    def _memory(self, stream: str, follow_up: FollowUp, frame: Frame) -> _Memory:
        key = stream, follow_up.name
        if key not in self._memories or self._memories[key].epoch != frame.epoch:
            self._memories[key] = _Memory(frame.epoch)
        return self._memories[key]

    def _remember(self, job: Job, shape: Shape) -> None:
        follow_up = job.due.task
        assert isinstance(follow_up, FollowUp)
        if follow_up.on == "every":
            return
        memory = self._memory(job.due.stream, follow_up, job.frame)
        for key in [key for key, seen in memory.seen.items() if _is_same(seen.shape, shape)]:
            del memory.seen[key]
        picture = _picture(shape, job.frame) if follow_up.on == "changed" else None
        memory.seen[_key(job)] = _Seen(shape, _time(job.frame), picture)
        while len(memory.seen) > MAX_SHAPES:
            del memory.seen[next(iter(memory.seen))]


def follow_up_job(
    follow_up: FollowUp, parent: Parent, frame: Frame, deadline: float, text: str | None = None
) -> Job | None:
    """Return the job of a follow-up; None if the task cannot take `text`."""
    if parent.region is not None:
        task: Task = with_region(follow_up, parent.region)
    else:
        try:
            task = _with_text(follow_up, text) if text is not None else follow_up
        except ValidationError:
            return None
    return Job(DueTask(frame.stream, task, deadline, origin="follow_up", parent=parent), frame)


def with_region(task: Task, region: Region) -> Task:
    """Return the task with another region in its prompt."""
    return replace(task, params=task.params.model_copy(update={"region": region}))


def _with_text(task: Task, text: str) -> Task:
    """Return the task with another text in its prompt. Raises ValidationError."""
    given = {key: getattr(task.params, key) for key in task.params.model_fields_set}
    return replace(task, params=type(task.params).model_validate({**given, "text": text}))


def _path(result: Result) -> tuple[int, ...]:
    parent = result.job.due.parent
    return () if parent is None else parent.path


def _key(job: Job) -> tuple[int, ...]:
    assert job.due.parent is not None
    return (*job.frame.id, *job.due.parent.path)


def _shapes(answer: Answer) -> Iterator[Shape]:
    number = 0
    for box in answer.boxes:
        yield Shape(number, box.label, box.score or 0.0, box.track, _clipped((box.x0, box.y0), (box.x1, box.y1)))
        number += 1
    outlines: tuple[Polygon | Quad, ...] = (*answer.polygons, *answer.quads)
    for outline in outlines:
        yield Shape(number, outline.label, outline.score or 0.0, None, _clipped(*outline.points))
        number += 1
    if not number and answer.text:
        yield Shape(0, None, answer.score or 0.0, None, None, answer.text)


def _clipped(*points: Point) -> Region:
    """Return the part of the points' bounding box that is in the frame."""
    xs, ys = ([min(max(value, 0.0), 1.0) for value in axis] for axis in zip(*points, strict=True))
    return Region(min(xs), min(ys), max(xs), max(ys))


def _is_large(region: Region, frame: Frame) -> bool:
    height, width = frame.image.shape[:2]
    return bool(min((region.x1 - region.x0) * width, (region.y1 - region.y0) * height) >= MIN_PIXELS)


def _is_due(follow_up: FollowUp, shape: Shape, memory: _Memory, frame: Frame) -> bool:
    if follow_up.on == "every":
        return True
    if follow_up.on == "new_tracks" and shape.track is None:
        return False
    last = next((seen for seen in memory.seen.values() if _is_same(seen.shape, shape)), None)
    if last is None:
        return True
    if follow_up.refresh is not None and _time(frame) - last.at >= follow_up.refresh:
        return True
    return follow_up.on == "changed" and _differs(last.picture, _picture(shape, frame))


def _is_same(one: Shape, other: Shape) -> bool:
    """Return whether two shapes are the same object; there is one text."""
    if one.region is None or other.region is None:
        return one.region is None and other.region is None
    if one.track is not None or other.track is not None:
        return one.track == other.track
    return one.label == other.label and iou(_edges(one.region), _edges(other.region)) >= SAME_IOU


def _edges(region: Region) -> Rect:
    return region.x0, region.y0, region.x1, region.y1


def _picture(shape: Shape, frame: Frame) -> Any:
    """Return what is compared to find a change: the text, or the brightness of the shape's picture."""
    if shape.region is None:
        return shape.text
    height, width = frame.image.shape[:2]
    left, top = int(shape.region.x0 * width), int(shape.region.y0 * height)
    part: Image = frame.image[top : max(top + 1, round(shape.region.y1 * height)),
                              left : max(left + 1, round(shape.region.x1 * width))]  # fmt: skip
    small = cv2.resize(part, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)


def _differs(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one != other)
    return bool(np.abs(one - other).mean() >= CHANGED_LEVELS)


def _time(frame: Frame) -> float:
    return frame.captured_at if frame.pts is None else frame.pts


def follow_ups_of(jobs: Iterable[Job]) -> int:
    """Return how many of the jobs are follow-ups."""
    return sum(job.due.origin == "follow_up" for job in jobs)
