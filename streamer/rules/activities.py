"""The activities of an engine, found by what concerns them: an answer, a stream, a deadline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from heapq import heappop, heappush

from streamer.rules.activity import Activity
from streamer.rules.condition import ObjectLeaf
from streamer.rules.incident import Key
from streamer.rules.observation import Observation

_SPARE = 1000
"""Deadlines that have changed and may stay in the heap."""
ANY_LABEL = ""
"""Key of activities that look at objects with any label."""


@dataclass(slots=True)
class _TaskActivities:
    """The activities that look at one task's answers."""

    awake: dict[int, Activity] = field(default_factory=dict)
    """Those that every answer concerns, by their order."""
    by_label: defaultdict[str, list[Activity]] = field(default_factory=lambda: defaultdict(list))

    def concerned(self, seen: Observation) -> list[Activity]:
        """Return the activities that an observation can change, in their order."""
        found = dict(self.awake)
        if seen.objects:
            for label in {ANY_LABEL, *(shape.label.casefold() for shape in seen.objects)}:
                for activity in self.by_label.get(label, ()):
                    found[activity.order] = activity
        return [found[order] for order in sorted(found)]


class Activities:
    """All activities in their order. Call `update` after each change of one."""

    def __init__(self, activities: Mapping[Key, Activity]) -> None:
        self._all = activities
        self._tasks: defaultdict[tuple[str, str], _TaskActivities] = defaultdict(_TaskActivities)
        self._streams: defaultdict[str, list[Activity]] = defaultdict(list)
        self._ordered = tuple(activities.values())
        self._deadlines: dict[int, float] = {}  # by order
        self._heap: list[tuple[float, int]] = []  # deadlines and orders, also of deadlines that have changed
        self.changed = set[Key]()
        """Activities that have changed, or are gone, since this was cleared."""
        for order, activity in enumerate(activities.values()):
            activity.order = order
            self._streams[activity.stream].append(activity)
            for leaf in activity.leaves:
                if leaf.task is not None and isinstance(leaf, ObjectLeaf):
                    of_label = self._tasks[activity.stream, leaf.task].by_label[leaf.label or ANY_LABEL]
                    if activity not in of_label:
                        of_label.append(activity)
            self.update(activity)
        self.changed.clear()

    def get(self, rule: str, stream: str) -> Activity | None:
        return self._all.get((rule, stream))

    def word(self, rule: str, stream: str) -> str | None:
        """Return the word of a rule's `state` on a stream, None without an answer."""
        activity = self.get(rule, stream)
        return None if activity is None else activity.state.word

    def keys(self) -> KeysView[Key]:
        return self._all.keys()

    def values(self) -> ValuesView[Activity]:
        return self._all.values()

    def items(self) -> ItemsView[Key, Activity]:
        return self._all.items()

    def of_stream(self, stream: str | None) -> Sequence[Activity]:
        return self._streams.get(stream or "", ())

    def concerned(self, seen: Observation) -> Sequence[Activity]:
        """Return the activities that an observation can change."""
        tasks = self._tasks.get((seen.stream, seen.task))
        return () if tasks is None else tasks.concerned(seen)

    @property
    def next_deadline(self) -> float:
        """Unix second of the earliest deadline, infinite if there is none."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else float("inf")

    def next_due(self) -> tuple[float, Activity]:
        """Return the earliest deadline and its activity; there must be one."""
        at = self.next_deadline
        return at, self._ordered[self._heap[0][1]]

    def update(self, activity: Activity) -> None:
        """Find the activity by its present state."""
        self.changed.add(activity.reporter.key)
        deadline, order = activity.deadline, activity.order
        if deadline is None:
            self._deadlines.pop(order, None)
        elif self._deadlines.get(order) != deadline:
            self._deadlines[order] = deadline
            heappush(self._heap, (deadline, order))
            if len(self._heap) > 2 * len(self._deadlines) + _SPARE:
                self._heap = sorted((time, order) for order, time in self._deadlines.items())
        sleeps = activity.sleeps
        for task in activity.tasks:
            awake = self._tasks[activity.stream, task].awake
            if sleeps:
                awake.pop(activity.order, None)
            else:
                awake[activity.order] = activity
