"""Which box is which object: ids over the results of one task, by ByteTrack on the frames that were asked about.

Frames without an answer are not shown to the tracker: it takes the times of those with one. Objects of two labels are
never taken for one. The distance of boxes counts, not only their overlap, for between two answers a second apart an
object may have left its own place.
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
"""An object that was not seen for so many intervals is another one when it comes back."""
MIN_DIOU = -0.3
"""Of two boxes that may be one object's: DIoU, from -1 (far apart) over 0 (touching) to 1 (the same)."""
MAX_LABELS = 64
"""A task that describes its boxes in free words has many: those that were not seen for longest are forgotten."""


@dataclass(slots=True)
class _Task:
    epoch: int
    by_label: dict[str, ByteTrackTracker] = field(default_factory=dict)
    ids: dict[tuple[str, int], int] = field(default_factory=dict)
    at: float = 0.0


class ObjectTracker:
    """The trackers of an inference process: one per stream, task name and label."""

    def __init__(self, intervals: Mapping[tuple[str, str], float]) -> None:
        """`intervals`: seconds between two results, by stream and task name.

        Loads the tracker's library, 0.9 s, here and not within the first result's time.
        """
        import supervision
        import trackers
        from trackers.utils.iou import DIoU

        self._detections: Any = supervision.Detections
        self._make, self._likeness = trackers.ByteTrackTracker, DIoU
        self._intervals = intervals
        self._tasks: dict[tuple[str, str], _Task] = {}
        self._last_id = 0

    def assign_ids(self, result: Result) -> Result:
        """`result` with track ids on its boxes; an object has one from the second time on that it is seen.

        A result that is older than the one before it is returned as it is.
        """
        if result.outcome not in ("ok", "empty"):
            return result
        frame, key = result.job.frame, (result.job.due.stream, result.job.due.task.name)
        task = self._tasks.get(key)
        if task is None and not result.answer.boxes:
            return result
        at = frame.captured_at if frame.pts is None else frame.pts
        if task is None or task.epoch != frame.epoch:
            task = self._tasks[key] = _Task(frame.epoch)
        elif at <= task.at:
            return result
        task.at = at
        height, width = frame.image.shape[:2]
        return replace(result, answer=self._with_ids(result.answer, task, at, (width, height), self._max_gap(key)))

    def _max_gap(self, key: tuple[str, str]) -> float:
        return max(MIN_GAP_S, MAX_GAP_INTERVALS * self._intervals.get(key, 0.0))

    def _with_ids(self, answer: Answer, task: _Task, at: float, size: tuple[int, int], patience: float) -> Answer:
        boxes = list(answer.boxes)
        for label in {*task.by_label, *(box.label for box in boxes)}:
            places = [place for place, box in enumerate(boxes) if box.label == label]
            for place, track in self._follow(task, label, [boxes[place] for place in places], at, size, patience):
                boxes[places[place]] = replace(boxes[places[place]], track=track)
        while len(task.by_label) > MAX_LABELS:
            self._forget(task, next(iter(task.by_label)))
        return replace(answer, boxes=tuple(boxes))

    def _follow(
        self, task: _Task, label: str, boxes: list[Box], at: float, size: tuple[int, int], patience: float
    ) -> list[tuple[int, int]]:
        """Which of the boxes of one label has which id."""
        tracker = task.by_label.pop(label, None)
        if tracker is None:
            tracker = self._make(
                lost_track_buffer=round(30 * patience),
                minimum_consecutive_frames=1,
                minimum_iou_threshold=MIN_DIOU,
                iou=self._likeness(),
            )
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)
        seen = self._detections(xyxy=corners * (size * 2), data={"place": np.arange(len(boxes))})
        found = tracker.update(seen, timestamp=at)
        if not tracker.tracks:
            self._forget(task, label)
            return []
        task.by_label[label] = tracker  # the last one is the one that was used last
        if found.tracker_id is None or not len(found):
            return []
        pairs = zip(map(int, found.data["place"]), map(int, found.tracker_id), strict=True)
        return [(place, self._id(task, label, number)) for place, number in pairs if number >= 0]

    def _id(self, task: _Task, label: str, number: int) -> int:
        if (label, number) not in task.ids:
            self._last_id += 1
            task.ids[label, number] = self._last_id
        return task.ids[label, number]

    def _forget(self, task: _Task, label: str) -> None:
        task.by_label.pop(label, None)
        task.ids = {key: value for key, value in task.ids.items() if key[0] != label}
