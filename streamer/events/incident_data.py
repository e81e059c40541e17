"""The data of `streamer.incident.v1`: a start, update or end of what a rule found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamer.events.part import Part, Time
from streamer.events.result_data import Snapshot

Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
"""The severities, the lowest first."""


class IncidentFrame(Part):
    """The frame of an answer that made a rule's condition true, and the object in it with the best score."""

    event: str
    """Id of the answer's event."""
    epoch: int | None
    seq: int | None
    """Null if the evidence is no frame but the state of a stream."""
    label: str | None
    score: float | None
    box: tuple[float, float, float, float] | None
    """x0, y0, x1, y1 as fractions of the full frame."""
    snapshot: Snapshot | None = None
    """The frame as a file, found by `event`; null without one."""


class Reason(Part):
    """A part of a rule's condition that was true."""

    condition: str
    value: float | None
    """Measured value: a number of objects, seconds, or null."""
    threshold: str | None
    """Comparison that the value met."""
    score: float | None
    min_score: float | None
    clear_score: float | None
    model: str | None
    event: str | None
    """Id of the answer's event."""


class IncidentData(Part):
    stream: str
    rule: str
    rule_hash: str
    """Hash of the rule's definition."""
    incident: str
    """Id that start, updates and end of one incident share."""
    state: Literal["start", "update", "end"]
    number: int
    """Number of the event in its incident, from 0."""
    severity: Severity
    text: str
    """Text for people, from the rule's `say`."""
    reason: str | None
    """Cause of an update or an end."""
    started: Time
    """Time of the start."""
    seconds: float
    """Time since the start, in seconds."""
    count: int
    """Largest number of objects at once so far."""
    answers: int
    """Number of answers so far for which the condition was true."""
    start_score: float | None = Field(default=None, exclude_if=lambda value: value is None)
    """Lowest score of the answers that started the incident; absent if they have none."""
    best: IncidentFrame
    """The best frame so far, by score."""
    evidence: tuple[str, ...]
    """Ids of the answers' events since the incident's last event, at most 1000."""
    why: tuple[Reason, ...]
    """The parts of the condition that were true, when it was true last."""
    acknowledged: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the person or program that acknowledged the incident: nobody is notified of it any more."""
    snoozed_until: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """End of the snooze: nobody is notified of this event."""
    notify: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Notification targets that get this event; absent if none does."""
    silent: bool = Field(default=False, exclude_if=lambda value: not value)
    """True if the targets already have a notification of this incident, and this event only changes it: no sound."""
