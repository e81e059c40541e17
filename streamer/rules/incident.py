"""An incident of a rule on one stream: its state, and the events that report it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from streamer.config.model import Stream
from streamer.config.rule import Rule
from streamer.events.build import clean, rfc3339, word_event
from streamer.events.incident_data import IncidentData, IncidentFrame, Reason, Severity
from streamer.events.part import UnixSecond
from streamer.events.result_data import Snapshot
from streamer.events.schema import IncidentEvent, StatusEvent
from streamer.rules.controls import Controls
from streamer.rules.descriptions import Descriptions
from streamer.rules.observation import Finding, Observation
from streamer.rules.targets import NO_TARGETS, NOBODY, IncidentState, Targets

MAX_EVIDENCE = 1000
"""Evidence ids in one event; beyond, the oldest are left out."""
BETTER_SCORE = 0.1
"""An update reports a best frame whose score is higher by this."""
MAX_LABEL = 200
"""Characters of a label or a read text that are kept."""

Key = tuple[str, str]
"""Names of a rule and of a stream."""


@dataclass(slots=True)
class Evidence:
    """A frame on which the condition was true, or the state of a stream."""

    event: str
    epoch: int | None
    seq: int | None
    label: str | None = None
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    count: int = 0
    snapshot: Snapshot | None = None

    @property
    def rank(self) -> float:
        return -1.0 if self.score is None else self.score


def evidence_of(seen: Observation, finding: Finding) -> Evidence:
    best, evidence = finding.best, Evidence(seen.event, seen.moment.epoch, seen.seq, snapshot=seen.snapshot)
    evidence.count = finding.number
    if best is not None:
        evidence.label, evidence.score, evidence.box = clean(best.label[:MAX_LABEL]), best.score, best.box
    return evidence


@dataclass(slots=True)
class Incident:
    """An incident that has started."""

    id: str
    started: UnixSecond
    """Unix second of the start, as events say it."""
    since: UnixSecond
    """Unix second from which on the time until the escalation counts."""
    severity: Severity
    best: Evidence
    start_score: float | None = None
    """Lowest score of the answers before the first event."""
    reported_score: float = -1.0
    count: int = 0
    answers: int = 0
    number: int = 0
    """Number of the next event."""
    evidence: list[str] = field(default_factory=list)
    """Ids since the last event."""
    last_true: float = 0.0
    """Answered second at which the condition was true last."""
    why: tuple[Reason, ...] = ()
    heard: Severity | None = None
    """Severity of the last event that was not snoozed; None if all were."""
    acknowledged: str | None = None
    """Name of the person or program that acknowledged it."""

    @property
    def is_withheld(self) -> bool:
        """Return whether a snooze has kept back its start or its higher severity, which nobody has acknowledged."""
        return self.heard != self.severity and self.acknowledged is None

    told: dict[str, Severity] = field(default_factory=dict)
    """Severity at which each notification target was alerted last."""
    alert_at: UnixSecond | None = None
    """Unix second at which the quiet hours of a target end that is to be alerted then."""

    def add(self, evidence: Evidence) -> None:
        """Count an answer for which the condition was true."""
        if evidence.rank > self.best.rank:
            self.best = evidence
        if self.number == 0 and evidence.score is not None:
            self.start_score = evidence.score if self.start_score is None else min(self.start_score, evidence.score)
        self.count = max(self.count, evidence.count)
        self.answers += 1
        self.evidence.append(evidence.event)
        del self.evidence[:-MAX_EVIDENCE]


class Reporter:
    """Makes the incident events of one rule on one stream."""

    def __init__(
        self,
        agent: str,
        name: str,
        stream: str,
        say: str,
        rule_hash: str,
        controls: Controls,
        targets: Targets = NO_TARGETS,
        descriptions: Descriptions | None = None,
    ) -> None:
        """`say`: the template of the rule; `rule_hash`: as of `hash_of`."""
        self._agent, self._name, self._stream, self._say = agent, name, stream, say
        self.key: Key = (name, stream)
        self.rule_hash, self._controls, self._targets = rule_hash, controls, targets
        self._descriptions = Descriptions() if descriptions is None else descriptions

    def snoozed_until(self, wall: float) -> float | None:
        """Return the unix second until which events are snoozed at `wall`, None if they are not."""
        return self._controls.snoozed_until(self._name, self._stream, wall)

    def next_alert(self, incident: Incident, wall: float) -> float | None:
        """Return the value of `Incident.alert_at` at `wall`."""
        if incident.acknowledged is not None:
            return None
        return self._targets.next_alert(incident.told, incident.severity, wall)

    def misses_alert(self, incident: Incident, wall: float) -> bool:
        """Return whether the quiet hours of a target have ended that was to be alerted then."""
        return incident.alert_at is not None and self._targets.is_missing(incident.told, incident.severity, wall)

    def incident_id(self, first: Evidence) -> str:
        """Return the id of the incident that begins with this frame, the same after a crash and a second run.

        A rule that was changed makes another incident of the same frame: the one before has ended.
        """
        frame = [first.epoch, first.seq] if first.seq is not None else [first.epoch, first.event]
        return _hash([self._agent, self._name, self._stream, self.rule_hash, *frame])

    def event(self, incident: Incident, state: IncidentState, wall: float, reason: str | None = None) -> IncidentEvent:
        """Return the next event of an incident. `wall`: unix second."""
        best, snoozed_until = incident.best, self.snoozed_until(wall)
        is_muted = snoozed_until is not None or incident.acknowledged is not None
        notify = NOBODY if is_muted else self._targets.choose(incident.told, incident.severity, state, wall)
        incident.alert_at = None if state == "end" else self.next_alert(incident, wall)
        data = IncidentData(
            stream=self._stream,
            rule=self._name,
            rule_hash=self.rule_hash,
            incident=incident.id,
            state=state,
            number=incident.number,
            severity=incident.severity,
            text=self._text(incident),
            reason=reason,
            started=_time(incident.started),
            seconds=round(max(0.0, wall - incident.started), 3),
            count=incident.count,
            answers=incident.answers,
            start_score=incident.start_score,
            best=IncidentFrame(
                event=best.event,
                epoch=best.epoch,
                seq=best.seq,
                label=best.label,
                score=best.score,
                box=best.box,
                snapshot=best.snapshot,
            ),
            evidence=tuple(incident.evidence),
            why=incident.why,
            acknowledged=incident.acknowledged,
            snoozed_until=None if snoozed_until is None else _time(snoozed_until),
            notify=notify.names,
            silent=notify.silent,
        )
        if snoozed_until is None:
            incident.heard = incident.severity
        event = IncidentEvent(
            source=f"/agents/{self._agent}/streams/{self._stream}",
            id=event_id(incident.id, state, incident.number),
            subject=f"incident.{self._name}",
            time=_time(wall),
            data=data,
        )
        incident.number += 1
        incident.reported_score = best.rank
        incident.evidence.clear()
        return event

    def word_event(self, word: str | None, cause: str, wall: float) -> StatusEvent:
        """Return the report of another word of the rule's `state`. `cause`: id of the event by which it changed."""
        return word_event(self._agent, self._stream, self._name, word, cause, _time(wall))

    def _text(self, incident: Incident) -> str:
        score = incident.best.score
        return self._say.format(
            rule=self._name,
            stream=self._stream,
            label=incident.best.label or "",
            count=incident.count,
            score="" if score is None else f"{score:.2f}",
            severity=incident.severity,
            description=self._descriptions.describe(self._stream, {incident.best.event, *incident.evidence}),
        )


def event_id(incident: str, state: str, number: int) -> str:
    """Return the id of an event of an incident. That of its start follows from the incident's id alone: number 0."""
    return _hash([incident, state, number])


def hash_of(rule: Rule, stream: Stream) -> str:
    """Return a hash of a rule's definition, with the zones and lines of the stream that it names.

    Its targets are no part of it: they change no incident.
    """
    leaves = [leaf for _, leaf in rule.when.leaves_with_place()]
    zones = {zone: stream.zones[zone] for leaf in leaves for _, zone in leaf.zones}
    lines = {leaf.line: stream.lines[leaf.line] for leaf in leaves if leaf.line is not None}
    definition = {key: value for key, value in _plain(rule).items() if key != "notify"}
    return _hash([definition, sorted(zones.items()), sorted(lines.items())])


def _plain(value: Any) -> Any:
    """Return settings as data whose text is the same in every process."""
    if isinstance(value, Rule) or hasattr(value, "model_fields_set"):
        return {key: _plain(item) for key, item in sorted(value) if item is not None}
    if hasattr(value, "__dataclass_fields__"):
        return _plain({key: str(item) for key, item in asdict(value).items()})
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else str(getattr(value, "text", value))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _time(wall: float) -> str:
    return rfc3339(datetime.fromtimestamp(wall, UTC))
