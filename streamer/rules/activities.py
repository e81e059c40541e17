"""The activities of an engine, found by what concerns them: an answer, a stream, a deadline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sequence, Set, ValuesView
from heapq import heappop, heappush

from streamer.rules.activity import Activity
from streamer.rules.condition import ObjectLeaf
from streamer.rules.incident import Key
from streamer.rules.task_activities import TaskActivities

_SPARE = 1000
"""Deadlines that have changed and may stay in the heap."""


class Activities:
    """All activities in their order. Call `update` after each change of one."""

    def __init__(self, activities: Mapping[Key, Activity]) -> None:
        self._all = activities
        self._tasks: defaultdict[tuple[str, str], TaskActivities] = defaultdict(TaskActivities)
        self._streams: defaultdict[str, list[Activity]] = defaultdict(list)
        self._ordered = tuple(activities.values())
        self._deadlines: dict[int, float] = {}  # by order
        self._awake = set[int]()  # orders
        self._deferring: list[TaskActivities | None] = []  # by order: where the activity can defer answers
        self._heap: list[tuple[float, int]] = []  # deadlines and orders, also of deadlines that have changed
        self._changed = set[Key]()
        for order, activity in enumerate(activities.values()):
            activity.order = order
            self._streams[activity.stream].append(activity)
            deferred_task = activity.deferrable_task
            self._deferring.append(None if deferred_task is None else self._tasks[activity.stream, deferred_task])
            for leaf in activity.leaves:
                if leaf.task is not None and isinstance(leaf, ObjectLeaf):
                    self._tasks[activity.stream, leaf.task].add(activity, leaf)
            self.update(activity)
        self._changed.clear()

    def settle(self) -> Set[Key]:
        """Let all activities take what they have deferred; return those that have changed or are gone since a store."""
        self._settle_all()
        return self._changed

    def mark_changed(self, keys: Iterable[Key]) -> None:
        """Note that the stored state of activities is not their state; they may be gone."""
        self._changed.update(keys)

    def mark_stored(self, key: Key) -> None:
        """Note that the stored state of an activity is its state."""
        self._changed.discard(key)

    def mark_all_stored(self) -> None:
        self._changed.clear()

    def get(self, rule: str, stream: str) -> Activity | None:
        activity = self._all.get((rule, stream))
        return None if activity is None else self._settled(activity)

    def word(self, rule: str, stream: str) -> str | None:
        """Return the word of a rule's `state` on a stream, None without an answer."""
        activity = self.get(rule, stream)
        return None if activity is None else activity.state.word

    def keys(self) -> KeysView[Key]:
        return self._all.keys()

    def values(self) -> ValuesView[Activity]:
        self._settle_all()
        return self._all.values()

    def items(self) -> ItemsView[Key, Activity]:
        self._settle_all()
        return self._all.items()

    def of_stream(self, stream: str | None) -> Sequence[Activity]:
        return [self._settled(activity) for activity in self._streams.get(stream or "", ())]

    def of_task(self, stream: str, task: str) -> TaskActivities | None:
        """Return the activities that look at the answers of a task, None if there are none."""
        return self._tasks.get((stream, task))

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
        return at, self._settled(self._ordered[self._heap[0][1]])

    def update(self, activity: Activity) -> None:
        """Find the activity by its present state."""
        self._changed.add(activity.reporter.key)
        order = activity.order
        if (deadline := activity.deadline) != self._deadlines.get(order):
            self._set_deadline(order, deadline)
        deferring = self._deferring[order]
        if deferring is not None:
            deferring.take(activity)
        is_awake = not activity.sleeps and (deferring is None or not deferring.defer(activity))
        if is_awake != (order in self._awake):
            self._awake ^= {order}
            for task in activity.tasks:
                awake = self._tasks[activity.stream, task].awake
                if is_awake:
                    awake[order] = activity
                else:
                    del awake[order]

    def _settled(self, activity: Activity) -> Activity:
        """Return an activity once it has taken the answers that it has deferred."""
        deferring = self._deferring[activity.order]
        if deferring is not None and deferring.has_deferred(activity):
            self.update(activity)
        return activity

    def _settle_all(self) -> None:
        for task in self._tasks.values():
            for activity in task.deferring:
                self._settled(activity)

    def _set_deadline(self, order: int, deadline: float | None) -> None:
        if deadline is None:
            del self._deadlines[order]
            return
        self._deadlines[order] = deadline
        heappush(self._heap, (deadline, order))
        if len(self._heap) > 2 * len(self._deadlines) + _SPARE:
            self._heap = sorted((time, order) for order, time in self._deadlines.items())
