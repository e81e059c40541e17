"""The activities that look at the answers of one task, found by what an answer shows.

Most answers show nothing that a rule looks at. For an activity that waits for its `hold` or its `grace`, such an answer
only counts. It is deferred: the activity takes it later, together with others, with the same result. Activities with
equal conditions on objects form a group, so that each answer is compared with the condition once.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import NamedTuple

from streamer.rules.activity import Activity, Answers, may_stay_true
from streamer.rules.condition import ObjectLeaf
from streamer.rules.observation import AnsweredTime, Observation, Selector

ANY_LABEL = ""
"""Key of activities that look at objects with any label."""
MARGIN_S = 0.001
"""Activities take their answers by so much earlier than they must, because sums of seconds are rounded."""


class _Group(NamedTuple):
    """The activities that look for the same objects."""

    leaf: ObjectLeaf
    """The leaf of one of them."""
    members: dict[int, Activity]
    """The activities by their order."""


class _Deferral(NamedTuple):
    activity: Activity
    before: Answers
    """Those that it has taken."""
    until: float
    """Second of the task's answered time from which on an answer can end the incident."""


class TaskActivities:
    def __init__(self) -> None:
        self.awake: dict[int, Activity] = {}
        """Those that every answer concerns, by their order."""
        self._groups = defaultdict[str, dict[Selector, _Group]](dict)  # by label
        self._deferrals: dict[int, _Deferral] = {}  # by order
        self._answers = Answers()
        self._next_due = inf  # no deferral ends earlier
        self._true: dict[int, Activity] = {}  # those that defer the next answer if it makes their condition false

    def add(self, activity: Activity, leaf: ObjectLeaf) -> None:
        """Look for the objects of a leaf of an activity."""
        group = self._groups[leaf.label or ANY_LABEL].setdefault(leaf.selector, _Group(leaf, {}))
        group.members[activity.order] = activity

    def concerned(self, seen: Observation) -> list[Activity]:
        """Return the activities that must take an observation now, in their order; the others defer it."""
        before = self._answers
        value = before.value if seen.outcome == "unchanged" else False if seen.outcome == "answer" else None
        time = AnsweredTime(before.seconds, before.last)
        seconds = time.advance(seen.moment, value is not None)
        found = dict(self.awake)
        for label in (ANY_LABEL, *seen.by_label) if seen.objects else ():
            if label in self._groups:
                for selector, group in self._groups[label].items():
                    if group.leaf.selection(seen, selector).shapes:
                        found |= group.members
        for order, activity in self._true.items():
            if seen.outcome == "unchanged" or may_stay_true(activity, seen):
                found[order] = activity
        self._true.clear()
        if seconds >= self._next_due:
            found |= self._due(seconds)
        for activity in found.values():
            self.take(activity)
        false = before.false + (value is False)
        self._answers = Answers(before.number + 1, false, value, seconds, time.last)
        return [found[order] for order in sorted(found)]

    def defer(self, activity: Activity) -> bool:
        """Defer the next answers without objects that count, if these only pass the time; return whether they do."""
        seconds, now = activity.deferrable_s, self._answers
        if seconds is None or now.value is None or activity.state.time.last != now.last:
            return False
        until = now.seconds + seconds - MARGIN_S
        self._next_due = min(self._next_due, until)
        self._deferrals[activity.order] = _Deferral(activity, now, until)
        if activity.condition.value:
            self._true[activity.order] = activity
        return True

    @property
    def deferring(self) -> list[Activity]:
        """The activities that defer answers."""
        return [deferral.activity for deferral in self._deferrals.values()]

    def has_deferred(self, activity: Activity) -> bool:
        """Return whether there are answers that an activity has deferred."""
        deferral = self._deferrals.get(activity.order)
        return deferral is not None and deferral.before.number < self._answers.number

    def take(self, activity: Activity) -> None:
        """Let an activity take the answers that it has deferred, and defer no more."""
        deferral = self._deferrals.pop(activity.order, None)
        if deferral is not None:
            self._true.pop(activity.order, None)
            if deferral.before.number < self._answers.number:
                activity.take_deferred(deferral.before, self._answers)

    def _due(self, seconds: float) -> dict[int, Activity]:
        due = {order: one for order, one in self._deferrals.items() if one.until <= seconds}
        later = [one.until for order, one in self._deferrals.items() if order not in due]
        self._next_due = min(later, default=inf)
        return {order: one.activity for order, one in due.items()}
