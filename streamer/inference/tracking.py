"""Object tracking: assigns track ids to the boxes of one task's results with ByteTrack.

The tracker gets only frames with an answer, with their times. Objects with different labels never share an id. Boxes
are matched by DIoU, which includes their distance, because an object may have left its box between two answers a
second apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.types import Answer, Box, Result

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
class _TaskTracks:
    epoch: int
    by_label: dict[str, ByteTrackTracker] = field(default_factory=dict)
    ids: dict[tuple[str, int], int] = field(default_factory=dict)
    at: float = 0.0
    """Time of the newest frame, in seconds."""


class ObjectTracker:
    """One ByteTrack tracker per stream, task name and label."""

    def __init__(self, intervals: Mapping[tuple[str, str], float]) -> None:
        """`intervals`: seconds between two results, by stream and task name.

        Imports the tracker's library, which takes 0.9 s, here and not during the first result.
        """
        import supervision
        import trackers
        from trackers.utils.iou import DIoU

        self._detections: Any = supervision.Detections
        self._tracker, self._similarity = trackers.ByteTrackTracker, DIoU
        self._intervals = intervals
        self._tasks: dict[tuple[str, str], _TaskTracks] = {}
        self._last_id = 0

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
        if task is None or task.epoch != frame.epoch:
            task = self._tasks[key] = _TaskTracks(frame.epoch)
        elif at <= task.at:
            return result
        task.at = at
        height, width = frame.image.shape[:2]
        return replace(result, answer=self._with_ids(result.answer, task, at, (width, height), self._max_gap(key)))

    def _max_gap(self, key: tuple[str, str]) -> float:
        return max(MIN_GAP_S, MAX_GAP_INTERVALS * self._intervals.get(key, 0.0))

    def _with_ids(self, answer: Answer, task: _TaskTracks, at: float, size: tuple[int, int], max_gap: float) -> Answer:
        boxes = list(answer.boxes)
        for label in {*task.by_label, *(box.label for box in boxes)}:
            indices = [index for index, box in enumerate(boxes) if box.label == label]
            for index, track in self._track_label(task, label, [boxes[index] for index in indices], at, size, max_gap):
                boxes[indices[index]] = replace(boxes[indices[index]], track=track)
        while len(task.by_label) > MAX_LABELS:
            self._forget(task, next(iter(task.by_label)))
        return replace(answer, boxes=tuple(boxes))

    def _track_label(
        self, task: _TaskTracks, label: str, boxes: list[Box], at: float, size: tuple[int, int], max_gap: float
    ) -> list[tuple[int, int]]:
        """Return (index of the box, track id) for the boxes of one label."""
        tracker = task.by_label.pop(label, None)
        if tracker is None:
            tracker = self._tracker(
                lost_track_buffer=round(30 * max_gap),
                minimum_consecutive_frames=1,
                minimum_iou_threshold=MIN_DIOU,
                iou=self._similarity(),
            )
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)
        detections = self._detections(xyxy=corners * (size * 2), data={"index": np.arange(len(boxes))})
        tracked = tracker.update(detections, timestamp=at)
        if not tracker.tracks:
            self._forget(task, label)
            return []
        task.by_label[label] = tracker  # moved to the end: least recently seen labels come first
        if tracked.tracker_id is None or not len(tracked):
            return []
        pairs = zip(map(int, tracked.data["index"]), map(int, tracked.tracker_id), strict=True)
        return [(index, self._id(task, label, number)) for index, number in pairs if number >= 0]

    def _id(self, task: _TaskTracks, label: str, number: int) -> int:
        if (label, number) not in task.ids:
            self._last_id += 1
            task.ids[label, number] = self._last_id
        return task.ids[label, number]

    def _forget(self, task: _TaskTracks, label: str) -> None:
        task.by_label.pop(label, None)
        task.ids = {key: value for key, value in task.ids.items() if key[0] != label}
