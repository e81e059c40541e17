"""Object tracking: assigns track ids to the boxes of one task's results with ByteTrack.

The tracker gets only frames with an answer, with their times. Objects with different labels never share an id. Boxes
are matched by DIoU, which includes their distance, because an object may have left its box between two answers a
second apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

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


@dataclass(slots=True)
class _TaskTracks:
    epoch: int
    by_label: dict[str, _LabelTracks] = field(default_factory=dict)
    """The least recently seen label first."""
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
        self._ids = count(1)

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
        boxes = list(result.answer.boxes)
        seen = dict.fromkeys(box.label for box in boxes)
        unseen = [label for label in task.by_label if label not in seen]
        for label in (*unseen, *seen):
            tracks = task.by_label.pop(label, None) or self._new_label(key)
            self._update(tracks, label, boxes, (width, height), at)
            if tracks.tracker.tracks:
                task.by_label[label] = tracks
        while len(task.by_label) > MAX_LABELS:
            del task.by_label[next(iter(task.by_label))]
        return replace(result, answer=replace(result.answer, boxes=tuple(boxes)))

    def _new_label(self, key: tuple[str, str]) -> _LabelTracks:
        max_gap = max(MIN_GAP_S, MAX_GAP_INTERVALS * self._intervals.get(key, 0.0))
        tracker = self._tracker(
            lost_track_buffer=round(30 * max_gap),
            minimum_consecutive_frames=1,
            minimum_iou_threshold=MIN_DIOU,
            iou=self._similarity(),
        )
        return _LabelTracks(tracker, defaultdict(self._ids.__next__))

    def _update(self, tracks: _LabelTracks, label: str, boxes: list[Box], size: tuple[int, int], at: float) -> None:
        """Set the track ids of those of `boxes` that have this label."""
        indices = [index for index, box in enumerate(boxes) if box.label == label]
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)[indices]
        detections = self._detections(xyxy=corners * (size * 2), data={"index": np.array(indices, np.intp)})
        tracked = tracks.tracker.update(detections, timestamp=at)
        if tracked.tracker_id is None or not len(tracked):
            return
        for index, number in zip(tracked.data["index"], map(int, tracked.tracker_id), strict=True):
            if number >= 0:
                boxes[index] = replace(boxes[index], track=tracks.ids[number])
