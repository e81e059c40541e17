"""The rules engine: takes the events of the ledger in their order, returns the incidents and words that they cause.

Its state is a function of these events alone, so the same events give the same incidents again. Its clock is the newest
time of an event. Deadlines, such as that of `stream: down for 1m`, have passed once the clock is `LATE_S` beyond them,
because the events of other processes may arrive that much later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from streamer.config.changes import with_task
from streamer.config.model import Config
from streamer.config.rule import Rule
from streamer.events.build import rfc3339
from streamer.events.command_data import CommandData
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent, StatusEvent
from streamer.rules.activities import Activities
from streamer.rules.activity import Activity, are_alike, retire, word_event
from streamer.rules.build import build_activities
from streamer.rules.controls import Controls
from streamer.rules.descriptions import Descriptions
from streamer.rules.incident import Key, Reporter
from streamer.rules.observation import Observation
from streamer.rules.published import Published
from streamer.rules.saved_state import (
    Head,
    SavedActivity,
    SavedState,
    dump_activity,
    dump_head,
    load_activity,
    load_head,
    restore,
)
from streamer.rules.targets import Targets
from streamer.rules.unusual import UnusualLeaf

LATE_S = 2.0
"""Longest delay of an event that still counts before a deadline."""
STEP_BACK_S = 60.0
"""An event that was committed earlier than the clock by more shows that the computer's clock was set back."""
REMOVED = "the rule was removed"
UNANSWERED = "no task of the stream answers the rule any more"
CHANGED = "the rule, or a zone or line that it names, was changed"
RESTARTED = "the agent has started without a task that was added"

RuleEvent = IncidentEvent | StatusEvent
"""An event of an incident, or the word of a rule's `state` (`rules.word`)."""


class Engine:
    """All rules of a config. `process` must get events in ledger order."""

    def __init__(self, config: Config, rules: Mapping[str, Rule] | None = None) -> None:
        """`rules`: those of the config, or some of them."""
        self.agent, self.timezone = config.name, config.timezone
        self.controls = Controls(config.modes)
        self._descriptions = Descriptions()
        self.rules = config.rules if rules is None else rules
        self._describes = any(rule.describes for rule in self.rules.values())
        self.clock = 0.0
        """Unix second of the newest event."""
        self._base = self._config = replace(config, is_part=True)  # changes of tasks were checked when they were made
        self.activities = Activities(dict(build_activities(config, self.rules, self.controls, self._descriptions)))
        self.new: list[Activity] = list(self.activities.values())
        """Activities made since `learn` has cleared this."""

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
        return None if self.activities.next_deadline == float("inf") else self.activities.next_deadline + LATE_S

    def process(self, event: Observation | StatusEvent, created: float) -> list[RuleEvent]:
        """Take an event, committed at unix second `created`; return what follows: nothing if its time is no time."""
        if isinstance(event, Observation):
            return self._advance_clock(event.moment.wall, created) + self._observe(event)
        try:
            wall = unix_time(event.time)
        except (ValueError, OverflowError):
            return []
        found = self._advance_clock(wall, created)
        if event.subject.startswith("stream."):
            found += self._change_stream(event, wall)
        elif event.subject.startswith("task."):
            found += self._change_task(event, wall)
        elif event.subject == "rules.started":
            found += self._follow(self._base, event.id, wall, RESTARTED)
        elif event.data.command is not None:
            found += self._obey(event.data.state, event.data.command, wall)
        return found

    @property
    def learners(self) -> dict[tuple[str, str], list[UnusualLeaf]]:
        """The conditions of new activities that learn what is usual and have seen no answer yet, by stream and task."""
        found: defaultdict[tuple[str, str], list[UnusualLeaf]] = defaultdict(list)
        for activity in self.new:
            for leaf in activity.leaves:
                if isinstance(leaf, UnusualLeaf) and leaf.task is not None and not leaf.has_learnt:
                    found[activity.stream, leaf.task].append(leaf)
        return found

    def recall(self, event: StatusEvent) -> None:
        """Take a command that is older than the first event of `process`: it sets the mode and the snoozes only."""
        if event.data.command is not None:
            with suppress(ValueError, OverflowError):  # a time that is no time
                list(self._obey(event.data.state, event.data.command, unix_time(event.time)))

    def save(self, keys: Iterable[Key] | None = None) -> SavedState:
        """Return the state. `keys`: the activities whose state is needed; None: all."""
        found = {key: self.activities.get(*key) for key in (self.activities.keys() if keys is None else keys)}
        return SavedState(
            dump_head(Head(self.clock, self.controls.state, self._descriptions)),
            {key: None if activity is None else dump_activity(activity) for key, activity in found.items()},
        )

    def load(self, state: SavedState, published: Mapping[str, Published] | None = None) -> list[RuleEvent]:
        """Continue from the result of `save`; return the ends of incidents and words whose rule is gone or has changed.

        `published`: incidents with events behind this state, by id. Raises ValueError for data of another version.
        """
        replaced, head = dict[Key, SavedActivity](), load_head(state.head)
        self.clock = head.clock
        self.controls.load(head.controls)
        self._descriptions.streams.update(head.descriptions.streams)
        for key, data in state.activities.items():
            if data is None:
                continue
            try:
                activity, saved = self.activities.get(*key), load_activity(data)
                if activity is not None and activity.reporter.rule_hash == saved.rule_hash:
                    restore(activity, saved, self.clock)
                    self.activities.update(activity)
                    self.activities.mark_stored(key)
                else:
                    self.activities.mark_changed([key])
                    replaced[key] = saved
            except ValueError as error:
                raise ValueError(f"the state of rule {key[0]} on {key[1]} is not valid") from error
        return list(_ends(self, replaced, published or {}))

    def _observe(self, seen: Observation) -> list[RuleEvent]:
        found: list[RuleEvent] = []
        if self._describes:
            self._descriptions.observe(seen)
        if (tasks := self.activities.of_task(seen.stream, seen.task)) is not None:
            for activity in tasks.concerned(seen):
                if incident := activity.observe(seen):
                    found.append(incident)
                found += self._update(activity, seen.event, seen.moment.wall)
        return found

    def _update(self, activity: Activity, cause: str, wall: float) -> Iterable[StatusEvent]:
        """Note the state of an activity after an event with the id `cause`; report its word if that has changed."""
        event = word_event(activity, cause, wall)
        self.activities.update(activity)
        return () if event is None else (event,)

    def _change_stream(self, event: StatusEvent, wall: float) -> Iterator[RuleEvent]:
        data = event.data
        for activity in self.activities.of_stream(data.stream):
            yield from activity.change_stream(data.state, event.id, data.epoch, wall)
            yield from self._update(activity, event.id, wall)

    def _change_task(self, event: StatusEvent, wall: float) -> Iterator[RuleEvent]:
        """Take a change of a task of the running agent. A paused task has no answers until it is resumed."""
        data = event.data
        stream, task = data.stream or "", data.task or ""
        reason = f"the task {task} was {data.state}"
        if data.state == "paused":
            for activity in self.activities.of_stream(stream):
                yield from activity.lose_task(task, wall, reason)
                yield from self._update(activity, event.id, wall)
        elif data.state == "removed" or (data.state == "added" and data.keys is not None):
            yield from self._follow(with_task(self._config, stream, task, data.keys), event.id, wall, reason, stream)

    def _follow(
        self, config: Config, cause: str, wall: float, reason: str, stream: str | None = None
    ) -> Iterator[RuleEvent]:
        """Look at the tasks of `config` from here on; end the incidents that these do not answer.

        `cause`: id of the event of the change; `stream`: the only one that differs. None: any may.
        """
        if config is self._config:
            return
        streams = config.streams if stream is None else {stream: config.streams[stream]}
        changed, before = self.activities.settle(), dict(self.activities.items())
        after = {key: activity for key, activity in before.items() if key[1] not in streams}
        for key, activity in build_activities(config, self.rules, self.controls, self._descriptions, streams):
            known = before.get(key)
            after[key] = known if known is not None and are_alike(known, activity) else activity
        rules = {name: number for number, name in enumerate(self.rules)}
        places = {name: number for number, name in enumerate(config.streams)}
        ordered = sorted(after, key=lambda key: (rules[key[0]], places[key[1]]))
        self._config, self.activities = config, Activities({key: after[key] for key in ordered})
        replaced = {key for key in (*before, *after) if before.get(key) is not after.get(key)}
        self.activities.mark_changed(changed | replaced)
        self.new += [activity for key, activity in after.items() if before.get(key) is not activity]
        for key, activity in before.items():
            if after.get(key) is not activity:
                yield from retire(activity, cause, wall, reason)

    def _obey(self, kind: str, command: CommandData, wall: float) -> Iterator[IncidentEvent]:
        """Take a command. Feedback changes nothing here."""
        if kind == "mode" and self.controls.switch(command, wall):
            for activity in self.activities.values():
                yield from activity.change_mode(wall)
                self.activities.update(activity)
        elif kind == "snooze":
            self.controls.snooze(command, wall)
            for activity in self.activities.values():
                yield from activity.end_snooze(wall)
                self.activities.update(activity)
        elif kind == "ack" and (found := self.activities.get(command.rule or "", command.stream or "")):
            yield from found.acknowledge(command.incident, command.by, wall)
            self.activities.update(found)

    def _advance_clock(self, wall: float, created: float) -> list[RuleEvent]:
        found: list[RuleEvent] = []
        if max(wall, created) < self.clock - STEP_BACK_S:
            self.controls.rebase(self.clock, wall)
            self.clock = wall
            for activity in self.activities.values():
                activity.rebase(wall)
                self.activities.update(activity)
        self.clock = max(self.clock, wall)
        while self.activities.next_deadline + LATE_S <= self.clock:
            at, activity = self.activities.next_due()
            found += activity.expire(at)
            self.activities.update(activity)
        return found


def _ends(
    engine: Engine, replaced: Mapping[Key, SavedActivity], published: Mapping[str, Published]
) -> Iterator[RuleEvent]:
    """Yield what ends the words and the open incidents whose rule is gone or has changed.

    `replaced`: stored activities of such rules; `published`: the incidents with events behind the stored state.
    """
    newest, targets = dict(published), Targets((), engine._base.notify, engine.timezone)

    def reporter(key: Key, rule_hash: str) -> Reporter:
        return Reporter(engine.agent, *key, "{rule} at {stream}", rule_hash, engine.controls, targets)

    for key, saved in replaced.items():
        if (incident := saved.state.incident) is not None:
            known = Published(key, saved.rule_hash, incident, engine.clock)
            newest[incident.id] = known.updated_by(newest.get(incident.id))
        if saved.state.word is not None:
            cause = f"{saved.rule_hash} {engine.clock}"
            yield reporter(key, saved.rule_hash).word_event(None, cause, engine.clock)
    for last in newest.values():
        activity = engine.activities.get(*last.key)
        if not last.is_over and (activity is None or activity.reporter.rule_hash != last.rule_hash):
            reason = REMOVED if last.key[0] not in engine.rules else UNANSWERED if activity is None else CHANGED
            at = max(engine.clock, last.at)
            yield reporter(last.key, last.rule_hash).event(last.incident, "end", at, reason)
