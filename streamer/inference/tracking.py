"""Object tracking: assigns track ids to the boxes of one task's results with ByteTrack.

The tracker gets only frames with an answer, with their times. Objects with different labels never share an id. Boxes
are matched by DIoU, which includes their distance, because an object may have left its box between two answers a
second apart.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.types import Box, Result

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

MIN_GAP_S = 3.0
MAX_GAP_INTERVALS = 2.5
"""An object that was not detected for this many intervals, and for `MIN_GAP_S`, gets a new id."""
MIN_DIOU = -0.3
"""Lowest DIoU of two boxes of one object: from -1 (far apart) through 0 (touching) to 1 (equal)."""
MAX_LABELS = 64
"""Labels that are tracked per task; beyond, the least recently seen are dropped. Free-text labels are unlimited."""


@dataclass(slots=True)
class _LabelTracks:
    tracker: ByteTrackTracker
    ids: defaultdict[int, int]
    """Track id by the tracker's own number of the object; a new number gets the next id."""


class _Detections(NamedTuple):
    """The boxes of one answer."""

    at: float
    """Time of the frame, in seconds."""
    size: tuple[int, int]
    """Width and height of the frame, in pixels."""
    boxes: tuple[Box, ...]


@dataclass(slots=True)
class _TaskTracks:
    epoch: int
    at: float
    """Time of the newest frame, in seconds."""
    first: _Detections | None
    """The first answer, until the second one is there."""
    by_label: dict[str, _LabelTracks] = field(default_factory=dict)
    """The least recently seen label first."""


class ObjectTracker:
    """One ByteTrack tracker per stream, task name and label."""

    def __init__(self, intervals: Mapping[tuple[str, str], float], on_import: Callable[[], None]) -> None:
        """`intervals`: seconds between two results, by stream and task name.

        `on_import` is called before a wait for the import of the libraries, which may take long on a slow computer.
        """
        self._intervals, self._on_import = intervals, on_import
        self._tasks: dict[tuple[str, str], _TaskTracks] = {}
        self._ids = count(1)
        self._loader = threading.Thread(target=import_libraries, name="tracker", daemon=True)

    def assign_ids(self, result: Result) -> Result:
        """Return the result with track ids on its boxes; an object has an id from its second detection on.

        A result older than the previous one is returned unchanged.
        """
        if result.outcome not in ("ok", "empty"):
            return result
        frame, key = result.job.frame, (result.job.due.stream, result.job.due.task.name)
        task = self._tasks.get(key)
        if task is None and not result.answer.boxes:
            return result
        at = frame.captured_at if frame.pts is None else frame.pts
        height, width = frame.image.shape[:2]
        detections = _Detections(at, (width, height), result.answer.boxes)
        if task is None or task.epoch != frame.epoch:
            # No box of a first answer gets an id. It is not held up by the import of the libraries.
            self._tasks[key] = _TaskTracks(frame.epoch, at, first=detections)
            if self._loader.ident is None:
                self._loader.start()
            return result
        if at <= task.at:
            return result
        task.at = at
        if task.first is not None:
            if self._loader.is_alive():
                self._on_import()
                self._loader.join()
            self._track(key, task, task.first)
            task.first = None
        return replace(result, answer=replace(result.answer, boxes=self._track(key, task, detections)))

    def _track(self, key: tuple[str, str], task: _TaskTracks, detections: _Detections) -> tuple[Box, ...]:
        """Return the boxes with their track ids."""
        boxes = list(detections.boxes)
        seen = dict.fromkeys(box.label for box in boxes)
        unseen = [label for label in task.by_label if label not in seen]
        for label in (*unseen, *seen):
            tracks = task.by_label.pop(label, None) or self._new_label(key)
            _update(tracks, label, boxes, detections)
            if tracks.tracker.tracks:
                task.by_label[label] = tracks
        while len(task.by_label) > MAX_LABELS:
            del task.by_label[next(iter(task.by_label))]
        return tuple(boxes)

    def _new_label(self, key: tuple[str, str]) -> _LabelTracks:
        from trackers import ByteTrackTracker
        from trackers.utils.iou import DIoU

        max_gap = max(MIN_GAP_S, MAX_GAP_INTERVALS * self._intervals.get(key, 0.0))
        tracker = ByteTrackTracker(
            lost_track_buffer=round(30 * max_gap),
            minimum_consecutive_frames=1,
            minimum_iou_threshold=MIN_DIOU,
            iou=DIoU(),
        )
        return _LabelTracks(tracker, defaultdict(self._ids.__next__))


def _update(tracks: _LabelTracks, label: str, boxes: list[Box], detections: _Detections) -> None:
    """Set the track ids of those of `boxes` that have this label."""
    from supervision import Detections

    indices = [index for index, box in enumerate(boxes) if box.label == label]
    corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)[indices]
    tracked = tracks.tracker.update(
        Detections(xyxy=corners * (detections.size * 2), data={"index": np.array(indices, np.intp)}),
        timestamp=detections.at,
    )
    if tracked.tracker_id is None or not len(tracked):
        return
    for index, number in zip(tracked.data["index"], map(int, tracked.tracker_id), strict=True):
        if number >= 0:
            boxes[index] = replace(boxes[index], track=tracks.ids[number])


def import_libraries() -> None:
    """Import the libraries of the tracker, which takes 0.6 s of processor time. An error shows at their use."""
    with suppress(Exception):
        import supervision  # noqa: F401
        import trackers  # noqa: F401
