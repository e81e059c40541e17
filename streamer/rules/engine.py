"""The rules engine: takes the events of the ledger in their order, returns the incident events that they cause.

Its state is a function of these events alone, so the same events give the same incidents again. Its clock is the newest
time of an event. Deadlines, such as that of `stream: down for 1m`, have passed once the clock is `LATE_S` beyond them,
because the events of other processes may arrive that much later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streamer.config.model import Config, find_pipeline
from streamer.config.rule import Rule, answering
from streamer.events.build import rfc3339, unix_time
from streamer.events.command_data import CommandData
from streamer.events.schema import Event, IncidentEvent, ResultEvent, StatusEvent
from streamer.rules.activity import Activity, ActivityState
from streamer.rules.build import build
from streamer.rules.condition import LeafState, ObjectLeaf
from streamer.rules.controls import Controls, ControlState
from streamer.rules.incident import Reporter, hash_of
from streamer.rules.observation import Observation, observe
from streamer.rules.targets import Targets
from streamer.rules.unusual import UnusualLeaf

LATE_S = 2.0
"""Longest delay of an event that still counts before a deadline."""
STEP_BACK_S = 60.0
"""An event that is older than the clock by more shows that the computer's clock was set back."""
CHANGED = "the rule was changed or removed"
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


class Engine:
    """All rules of a config. `process` must get events in ledger order."""

    def __init__(self, config: Config, rules: Mapping[str, Rule] | None = None) -> None:
        """`rules`: those of the config, or some of them."""
        self.agent = config.name
        self.timezone = config.timezone
        self.controls = Controls(config.modes)
        self.rules = config.rules if rules is None else rules
        self.clock = 0.0
        """Unix second of the newest event."""
        self.activities: dict[tuple[str, str], Activity] = {}  # by rule and stream
        self._tasks: defaultdict[tuple[str, str], _TaskActivities] = defaultdict(_TaskActivities)
        self._streams: defaultdict[str, list[Activity]] = defaultdict(list)
        self._deadlines: dict[int, tuple[float, Activity]] = {}  # by order
        self._next = float("inf")  # the earliest deadline
        kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
        for name, rule in self.rules.items():
            hours = rule.between and replace(rule.between, zone=config.timezone)
            zoned = rule.model_copy(update={"between": hours})
            targets = Targets({target: config.notify[target] for target in rule.notify}, config.timezone)
            for stream, tasks in answering(rule, config.streams, kinds).tasks.items():
                condition = build(rule.when, tasks, config.streams[stream].zones, config.timezone)
                reporter = Reporter(config.name, name, stream, rule.say, hash_of(rule), self.controls, targets)
                self._add(name, Activity(zoned, stream, condition, reporter, self.controls, len(self.activities)))

    @property
    def places(self) -> Collection[tuple[str, str]]:
        """Rules and the streams that they look at."""
        return self.activities.keys()

    def open_incidents(self) -> list[dict[str, Any]]:
        """Return the incidents that have not ended, as plain data."""
        return [
            {
                "incident": incident.id,
                "rule": rule,
                "stream": stream,
                "severity": incident.severity,
                "started": rfc3339(datetime.fromtimestamp(incident.started, UTC)),
                "acknowledged": incident.acknowledged,
            }
            for (rule, stream), activity in self.activities.items()
            if (incident := activity.state.incident) is not None
        ]

    @property
    def deadline(self) -> float | None:
        """Value that the clock must reach for the next deadline to pass; None if there is no deadline."""
        return None if self._next == float("inf") else self._next + LATE_S

    def process(self, event: Event) -> list[IncidentEvent]:
        """Take one event and return what follows. An event whose time is no time is passed over."""
        if isinstance(event, IncidentEvent):
            return []
        try:
            wall = unix_time(event.time)
        except (ValueError, OverflowError):
            return []
        incidents = list(self._advance_clock(wall))
        if isinstance(event, ResultEvent):
            incidents += self._observe(observe(event, wall))
        elif event.subject.startswith("stream."):
            incidents += self._change_stream(event, wall)
        elif event.data.command is not None:
            incidents += self._obey(event.data.state, event.data.command, wall)
        return incidents

    @property
    def learners(self) -> dict[tuple[str, str], list[UnusualLeaf]]:
        """The conditions that learn what is usual and have seen no answer yet, by stream and task."""
        found: defaultdict[tuple[str, str], list[UnusualLeaf]] = defaultdict(list)
        for activity in self.activities.values():
            for leaf in activity.leaves:
                if isinstance(leaf, UnusualLeaf) and leaf.task is not None and not leaf.has_learnt:
                    found[activity.stream, leaf.task].append(leaf)
        return found

    def recall(self, event: Event) -> None:
        """Take a command that is older than the first event of `process`: it sets the mode and the snoozes only."""
        if isinstance(event, StatusEvent) and event.data.command is not None:
            with suppress(ValueError, OverflowError):  # a time that is no time
                list(self._obey(event.data.state, event.data.command, unix_time(event.time)))

    def save(self) -> dict[str, Any]:
        """Return the state as data for JSON."""
        activities = [
            {
                "rule": rule,
                "stream": stream,
                "hash": activity.reporter.rule_hash,
                "activity": _ACTIVITY.dump_python(activity.state, mode="json"),
                "leaves": [_adapter(leaf.state).dump_python(leaf.state, mode="json") for leaf in activity.leaves],
            }
            for (rule, stream), activity in self.activities.items()
            if activity.is_worth_saving
        ]
        controls = _CONTROLS.dump_python(self.controls.state, mode="json")
        return {"clock": self.clock, "controls": controls, "activities": activities}

    def load(self, state: Mapping[str, Any]) -> list[IncidentEvent]:
        """Continue from the result of `save`; return the ends of incidents whose rule is gone or has changed.

        Raises ValueError if the data is not from this version.
        """
        incidents: list[IncidentEvent] = []
        try:
            self.clock = float(state["clock"])
            self.controls.load(_CONTROLS.validate_python(state.get("controls", {})))
            for saved in state["activities"]:
                activity = self.activities.get((saved["rule"], saved["stream"]))
                stored = _ACTIVITY.validate_python(saved["activity"])
                if activity is None or activity.reporter.rule_hash != saved["hash"]:
                    if stored.incident is not None:
                        reporter = Reporter(
                            self.agent,
                            saved["rule"],
                            saved["stream"],
                            "{rule} at {stream}",
                            saved["hash"],
                            self.controls,
                        )
                        incidents.append(reporter.event(stored.incident, "end", self.clock, CHANGED))
                    continue
                activity.state = stored
                for leaf, data in zip(activity.leaves, saved["leaves"], strict=True):
                    leaf.state = _adapter(leaf.state).validate_python(data)
                self._update(activity)
        except (KeyError, TypeError, ValidationError) as error:
            raise ValueError("the stored state of the rules is not of this version") from error
        return incidents

    def _add(self, name: str, activity: Activity) -> None:
        stream = activity.stream
        self.activities[name, stream] = activity
        self._streams[stream].append(activity)
        for leaf in activity.leaves:
            if leaf.task is not None and isinstance(leaf, ObjectLeaf):
                of_label = self._tasks[stream, leaf.task].by_label[leaf.label or ANY_LABEL]
                if activity not in of_label:
                    of_label.append(activity)
        self._wake(activity)

    def _observe(self, seen: Observation) -> Iterator[IncidentEvent]:
        tasks = self._tasks.get((seen.stream, seen.task))
        for activity in tasks.concerned(seen) if tasks is not None else ():
            yield from activity.observe(seen)
            self._update(activity)

    def _change_stream(self, event: StatusEvent, wall: float) -> Iterator[IncidentEvent]:
        data = event.data
        for activity in self._streams.get(data.stream or "", ()):
            yield from activity.change_stream(data.state, event.id, data.epoch, wall)
            self._update(activity)

    def _obey(self, kind: str, command: CommandData, wall: float) -> Iterator[IncidentEvent]:
        """Take a command. Feedback changes nothing here."""
        if kind == "mode" and self.controls.switch(command, wall):
            for activity in self.activities.values():
                yield from activity.change_mode(wall)
                self._update(activity)
        elif kind == "snooze":
            self.controls.snooze(command, wall)
            for activity in self.activities.values():
                yield from activity.end_snooze(wall)
                self._update(activity)
        elif kind == "ack" and (found := self.activities.get((command.rule or "", command.stream or ""))):
            yield from found.acknowledge(command.incident, command.by, wall)
            self._update(found)

    def _advance_clock(self, wall: float) -> Iterator[IncidentEvent]:
        if wall < self.clock - STEP_BACK_S:
            self.controls.rebase(self.clock, wall)
            self.clock = wall
            for activity in self.activities.values():
                activity.rebase(wall)
                self._update(activity)
        self.clock = max(self.clock, wall)
        while self._next + LATE_S <= self.clock:
            at, activity = min(self._deadlines.values(), key=lambda due: (due[0], due[1].order))
            yield from activity.expire(at)
            self._update(activity)

    def _update(self, activity: Activity) -> None:
        """Keep the indexes of activities true after a change of one."""
        deadline = activity.deadline
        known = self._deadlines.pop(activity.order, None)
        if deadline is not None:
            self._deadlines[activity.order] = deadline, activity
        if deadline is not None or known is not None:
            self._next = min((time for time, _ in self._deadlines.values()), default=float("inf"))
        self._wake(activity)

    def _wake(self, activity: Activity) -> None:
        sleeps = activity.sleeps
        for task in {leaf.task for leaf in activity.leaves if leaf.task is not None}:
            awake = self._tasks[activity.stream, task].awake
            if sleeps:
                awake.pop(activity.order, None)
            else:
                awake[activity.order] = activity


_CONTROLS: TypeAdapter[ControlState] = TypeAdapter(ControlState)
_ACTIVITY: TypeAdapter[ActivityState] = TypeAdapter(ActivityState)
_ADAPTERS: dict[type[LeafState], TypeAdapter[Any]] = {}


def _adapter(state: LeafState) -> TypeAdapter[Any]:
    """Return the reader and writer of a leaf's state."""
    kind = type(state)
    return _ADAPTERS.setdefault(kind, _ADAPTERS.get(kind) or TypeAdapter(kind))
