"""The state machine of one rule on one stream: waiting for evidence, or in an incident."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from streamer.config.rule import Hits, Hold, Rule
from streamer.events.part import UnixSecond
from streamer.events.schema import IncidentEvent, StatusEvent
from streamer.rules.condition import Condition, Leaf, ObjectLeaf, StreamLeaf, Truth
from streamer.rules.controls import Controls
from streamer.rules.fixed_object import FixedObjectLeaf
from streamer.rules.incident import (
    BETTER_SCORE,
    MAX_EVIDENCE,
    Evidence,
    Incident,
    Reporter,
    evidence_of,
)
from streamer.rules.observation import NOTHING, AnsweredTime, Finding, Moment, Observation, is_reached
from streamer.rules.updates import Updates

MAX_PENDING = 2 * MAX_EVIDENCE
"""Frames kept while a rule waits for more evidence."""
HOURS_S = 8 * 86400.0
"""Seconds in which the hours of a rule begin again: a week, and a day for a change of the clock."""

STREAM_OVER: Mapping[str, str] = {
    "ended": "the stream has ended",
    "moved": "this agent does not run the stream any more",
}
"""States of a stream without further answers, and why its incidents end then."""

_NO_EVIDENCE = Evidence("", None, None)
_ONE = Hits(1, 1)


class Answers(NamedTuple):
    """The answers of a task up to one of them, as a condition on an object that none of them shows counts them."""

    number: int = 0
    """Number of all, those without a value too."""
    false: int = 0
    """Number of those at which the condition is false."""
    value: Truth = None
    """The condition at the newest one."""
    seconds: float = 0.0
    """Answered second."""
    last: Moment | None = None
    """Frame from which on the answered time counts."""


@dataclass(slots=True)
class ActivityState:
    time: AnsweredTime = field(default_factory=AnsweredTime)
    hits: list[bool] = field(default_factory=list)
    """Newest values, as many as `hold.hits` counts."""
    true_since: float | None = None
    """Answered second from which on the condition is true."""
    pending: list[Evidence] = field(default_factory=list)
    """Frames with a true condition before the start."""
    incident: Incident | None = None
    last_start: UnixSecond | None = None
    """Unix second of the last start, for the cooldown."""
    may_start_at: UnixSecond | None = None
    """Unix second at which an incident starts whose stream gives no further event, after the cooldown or in the hours
    of the rule."""
    word: str | None = None
    """Word of the rule's `state` as it was reported last."""

    @property
    def best(self) -> Evidence | None:
        """The best frame so far of the incident, or of the one that may start."""
        if self.incident is not None:
            return self.incident.best
        return max(self.pending, key=lambda evidence: evidence.rank, default=None)

    def is_held(self, hold: Hold, value: bool, evidence: Evidence, now: float) -> bool:
        """Record a value before the start; return whether there is enough evidence."""
        if not value:
            self.take_false(hold, 1)
            return False
        hits = hold.hits or _ONE
        self.hits = [*self.hits, True][-hits.of :]
        self.pending.append(evidence)
        if len(self.pending) > MAX_PENDING:
            del self.pending[1 : 1 + MAX_PENDING // 2]  # the first one names the incident
        if self.true_since is None:
            self.true_since = now
        return sum(self.hits) >= hits.true and is_reached(hold.for_ or 0.0, now - self.true_since)

    def take_false(self, hold: Hold, number: int) -> None:
        """Record values before the start that are all false."""
        kept = (hold.hits or _ONE).of
        self.hits = [*self.hits, *[False] * min(number, kept)][-kept:]
        self.true_since = None
        if hold.for_ or True not in self.hits:
            self.pending = []


class Activity:
    """One rule on one stream. Each method returns the incident events that it causes."""

    def __init__(self, rule: Rule, stream: str, condition: Condition, reporter: Reporter, controls: Controls) -> None:
        self._rule, self._grace_s, self._controls = rule, rule.grace_s, controls
        self.stream, self.condition, self.reporter = stream, condition, reporter
        self.order = 0
        """Place among all activities, so that events come in one order."""
        self.leaves: tuple[Leaf, ...] = tuple(condition.leaves())
        self.tasks = frozenset(leaf.task for leaf in self.leaves if leaf.task is not None)
        self.stream_leaves = tuple(leaf for leaf in self.leaves if isinstance(leaf, StreamLeaf))
        self._momentary = tuple(leaf for leaf in self.leaves if leaf.is_momentary)
        self.state_leaf = condition if isinstance(condition, FixedObjectLeaf) else None
        self._can_sleep = all(leaf.is_quiet for leaf in self.leaves) and not condition.value_of_nothing
        self.deferrable_task = self.leaves[0].task if self._can_sleep and condition is self.leaves[0] else None
        """The only task it looks at, if `take_deferred` can take answers of it."""
        self._updates, self.state = Updates(rule.escalate, reporter), ActivityState()

    @property
    def sleeps(self) -> bool:
        """Return whether an answer without objects that count, or no answer, would change nothing that matters.

        Such an answer would make a condition false, or leave it without an answer; both lead to no incident.
        """
        state = self.state
        if not self._can_sleep or state.incident is not None or state.pending or True in state.hits:
            return False
        return not self.condition.value and (len(self.leaves) == 1 or not any(leaf.value for leaf in self.leaves))

    @property
    def deferrable_s(self) -> float | None:
        """Answered seconds for which answers without objects that count only pass the time; None if they do more."""
        if self.deferrable_task is None or self.condition.value is None:
            return None
        incident = self.state.incident
        return inf if incident is None else self._grace_s - (self.state.time.seconds - incident.last_true)

    @property
    def deadline(self) -> float | None:
        """Unix second at which `expire` has something to do, without any event of the stream."""
        incident = self.state.incident
        if incident is None and not self.stream_leaves:  # as most
            return self.state.may_start_at
        times = [self.state.may_start_at, *(leaf.deadline for leaf in self.stream_leaves)]
        if incident is not None:
            times += self._updates.deadlines(incident)
        return min((time for time in times if time is not None), default=None)

    def observe(self, seen: Observation) -> IncidentEvent | None:
        """Take the outcome of a task of the stream."""
        is_only_task = self.deferrable_task is not None
        leaves = self.leaves if is_only_task else [leaf for leaf in self.leaves if leaf.task == seen.task]
        for leaf in leaves:
            leaf.observe(seen)
        value, evidence = self.condition.value, _NO_EVIDENCE
        if value:
            best = max((leaf.finding for leaf in leaves if leaf.value), key=_rank, default=NOTHING)
            evidence = evidence_of(seen, best)
        event = self._evaluate(value, evidence, seen.moment)
        for leaf in self._momentary:
            if leaf.value:
                leaf.state.value = False
        return event

    def take_deferred(self, before: Answers, now: Answers) -> None:
        """Take the answers from `before` to `now`, all within `deferrable_s`. They cause no event."""
        state, time = self.state, self.state.time
        self.leaves[0].state.value = now.value
        time.seconds, time.last = time.seconds + now.seconds - before.seconds, now.last
        if state.incident is None and now.false > before.false:
            state.take_false(self._rule.hold, now.false - before.false)

    def change_stream(self, state: str, event: str, epoch: int | None, now: float) -> Iterator[IncidentEvent]:
        """Take a change of the stream's state: `up`, `down`, `stopped`, `ended`, `moved`."""
        if state != "up":
            for leaf in self.leaves:
                leaf.lose()
            self.state.time.advance(Moment(epoch, None, now), answered=False)
        if state in STREAM_OVER:
            yield from self.stop(now, STREAM_OVER[state])
        for stream_leaf in self.stream_leaves:
            stream_leaf.change(state, event, now)
        if self.stream_leaves and (found := self._look_at_stream(event, epoch, now)):
            yield found

    def lose_task(self, task: str, now: float, reason: str) -> Iterator[IncidentEvent]:
        """Have no answer of a task from here on. An incident that the rest of the condition does not keep ends."""
        for leaf in self.leaves:
            if leaf.task == task:
                leaf.lose()
        if not self.condition.value:
            self.state.time.advance(Moment(None, None, now), answered=False)
            yield from self.stop(now, reason)

    def stop(self, now: float, reason: str) -> Iterator[IncidentEvent]:
        """End the incident, if there is one."""
        if self.state.incident is not None:
            yield self._end(now, reason)

    def expire(self, now: float) -> Iterator[IncidentEvent]:
        """Act on a deadline that has passed. `now`: that deadline."""
        due = [leaf for leaf in self.stream_leaves if leaf.deadline is not None and leaf.deadline <= now]
        for leaf in due:
            leaf.expire(now)
            if found := self._look_at_stream(leaf.state.event or "", None, now):
                yield found
        state = self.state
        if state.may_start_at is not None and state.may_start_at <= now:
            yield self._start(state.time.seconds, now)
        if self.state.incident is not None:
            yield from self._updates.expire(self.state.incident, now)

    def end_snooze(self, now: float) -> Iterator[IncidentEvent]:
        """Act on the end of a snooze."""
        if self.state.incident is not None:
            yield from self._updates.end_snooze(self.state.incident, now)

    def change_mode(self, now: float) -> Iterator[IncidentEvent]:
        """Act on a new mode."""
        state = self.state
        if not self._controls.is_armed(self._rule.modes):
            state.may_start_at = None
            if state.incident is not None:
                yield self._end(now, f"the mode is {self._controls.state.mode}")
        elif self.stream_leaves and self.condition.value and state.incident is None and state.pending:
            state.may_start_at = _next_start(self._rule, self._controls, state.last_start, now)

    def acknowledge(self, incident: str | None, by: str, now: float) -> Iterator[IncidentEvent]:
        """Take the acknowledgement of an incident, by its id."""
        found = self.state.incident
        if found is not None and found.id == incident:
            yield from self._updates.acknowledge(found, by, now)

    def rebase(self, now: float) -> None:
        """Let no time lie in the future: the clock of the computer was set back."""
        state = self.state
        if state.last_start is not None:
            state.last_start = min(state.last_start, now)
        if state.incident is not None:
            self._updates.rebase(state.incident, now)
        if state.may_start_at is not None:
            state.may_start_at = _next_start(self._rule, self._controls, state.last_start, now)
        for leaf in self.stream_leaves:
            leaf.rebase(now)

    def _look_at_stream(self, event: str, epoch: int | None, now: float) -> IncidentEvent | None:
        return self._evaluate(self.condition.value, Evidence(event, epoch, None), Moment(None, None, now))

    def _evaluate(self, value: Truth, evidence: Evidence, moment: Moment) -> IncidentEvent | None:
        """Take a value of the condition. `evidence` counts if it is true."""
        state = self.state
        now = state.time.advance(moment, value is not None)
        if not value:
            state.may_start_at = None
        if value is None:
            return None
        if state.incident is not None:
            return self._continue(state.incident, value, evidence, now, moment.wall)
        if state.is_held(self._rule.hold, value, evidence, now):
            if self._controls.is_armed(self._rule.modes) and _may_start(self._rule, state.last_start, moment.wall):
                return self._start(now, moment.wall)
            state.pending = [evidence]
            if self.stream_leaves and state.may_start_at is None:
                state.may_start_at = _next_start(self._rule, self._controls, state.last_start, moment.wall)
        return None

    def _start(self, now: float, wall: float) -> IncidentEvent:
        state, rule = self.state, self._rule
        first = state.pending[0]
        name = self.reporter.incident_id(first)
        incident = Incident(name, started=wall, since=wall, severity=rule.severity, best=first)
        for evidence in state.pending:
            incident.add(evidence)
        incident.last_true, incident.why = now, tuple(self.condition.reasons())
        state.incident, state.last_start = incident, wall
        state.hits, state.pending, state.true_since, state.may_start_at = [], [], None, None
        return self.reporter.event(incident, "start", wall)

    def _continue(
        self, incident: Incident, value: bool, evidence: Evidence, now: float, wall: float
    ) -> IncidentEvent | None:
        if not value:
            return self._end(wall, None) if is_reached(self._grace_s, now - incident.last_true) else None
        more = evidence.count > incident.count
        incident.add(evidence)
        incident.last_true, incident.why = now, tuple(self.condition.reasons())
        if more:
            return self.reporter.event(incident, "update", wall, f"count {incident.count}")
        if incident.best.rank >= max(0.0, incident.reported_score) + BETTER_SCORE:
            return self.reporter.event(incident, "update", wall, "better frame")
        return None

    def _end(self, wall: float, reason: str | None) -> IncidentEvent:
        assert self.state.incident is not None
        event = self.reporter.event(self.state.incident, "end", wall, reason)
        self.state.incident = None
        return event


def may_stay_true(activity: Activity, seen: Observation) -> bool:
    """Return whether an answer shows an object that counts for a condition that is true, of one leaf."""
    leaf = activity.leaves[0]
    return isinstance(leaf, ObjectLeaf) and bool(leaf.selection(seen, leaf.true_selector).shapes)


def are_alike(one: Activity, other: Activity) -> bool:
    """Return whether two activities are about the same rule, and the same tasks answer them."""
    tasks = [[leaf.task for leaf in activity.leaves] for activity in (one, other)]
    return tasks[0] == tasks[1] and one.reporter.rule_hash == other.reporter.rule_hash


def word_event(activity: Activity, cause: str, now: float) -> StatusEvent | None:
    """Return the report of the word of the rule's `state`, None if it has not changed since the last one.

    `cause`: id of the event by which it changed.
    """
    leaf, state = activity.state_leaf, activity.state
    if leaf is None or leaf.word == state.word:
        return None
    state.word = leaf.word
    return activity.reporter.word_event(state.word, cause, now)


def retire(activity: Activity, cause: str, now: float, reason: str) -> Iterator[IncidentEvent | StatusEvent]:
    """Have no answers any more: end the incident and the word. `cause`: id of the event after which this is so."""
    for leaf in activity.leaves:
        leaf.lose()
    yield from activity.stop(now, reason)
    if (word := word_event(activity, cause, now)) is not None:
        yield word


def best_frames(activities: Iterable[Activity]) -> Iterator[tuple[str, str]]:
    """Yield stream and event id of the snapshots that later incident events may name."""
    for activity in activities:
        best = activity.state.best
        if best is not None and best.snapshot is not None:
            yield activity.stream, best.event


def _rank(finding: Finding) -> tuple[float, int]:
    score = -1.0 if finding.best is None or finding.best.score is None else finding.best.score
    return score, finding.number


def _may_start(rule: Rule, last: float | None, wall: float) -> bool:
    """Return whether the hours and the cooldown allow a start at unix second `wall`. `last`: the last start."""
    cooldown = rule.again.cooldown
    if cooldown is not None and last is not None and wall < last + cooldown:
        return False
    return rule.between is None or rule.between.is_open(wall)


def _next_start(rule: Rule, controls: Controls, last: float | None, wall: float) -> float | None:
    """Return the first unix second from `wall` on that the mode, the hours and the cooldown allow; None without one.

    `last`: the last start.
    """
    if not controls.is_armed(rule.modes):
        return None
    if rule.again.cooldown is not None and last is not None:
        wall = max(wall, last + rule.again.cooldown)
    if rule.between is None:
        return wall
    return next((start for start, _ in rule.between.open_spans(wall, wall + HOURS_S)), None)
