"""The updates of an open incident that no answer causes: a higher severity, the end of a wait, an acknowledgement."""

from __future__ import annotations

from collections.abc import Iterator

from streamer.config.rule import Escalate
from streamer.events.schema import IncidentEvent
from streamer.rules.incident import Incident, Reporter


class Updates:
    """Makes these updates for one rule on one stream."""

    def __init__(self, escalate: Escalate | None, reporter: Reporter) -> None:
        self._escalate, self._reporter = escalate, reporter

    def deadlines(self, incident: Incident) -> tuple[float | None, ...]:
        """Return the unix seconds at which `expire` has something to do."""
        snooze_ends = self._reporter.snoozed_until(incident.started) if incident.is_withheld else None
        return self._rises_at(incident), incident.alert_at, snooze_ends

    def expire(self, incident: Incident, now: float) -> Iterator[IncidentEvent]:
        """Act on a deadline that has passed. `now`: that deadline."""
        rises_at = self._rises_at(incident)
        if self._escalate is not None and rises_at is not None and now >= rises_at:
            incident.severity = self._escalate.to
            yield self._reporter.event(incident, "update", now, f"not over after {self._escalate.after:g} s")
        if incident.alert_at is not None and incident.alert_at <= now:
            incident.alert_at = self._reporter.snoozed_until(now)
            if incident.alert_at is None:
                yield self._reporter.event(incident, "update", now, "quiet hours are over")
        yield from self.end_snooze(incident, now)

    def end_snooze(self, incident: Incident, now: float) -> Iterator[IncidentEvent]:
        """Report an incident that a snooze has kept back, unless it is still snoozed."""
        if self._reporter.snoozed_until(now) is not None:
            return
        if incident.is_withheld or self._reporter.misses_alert(incident, now):
            yield self._reporter.event(incident, "update", now, "the snooze has ended")

    def acknowledge(self, incident: Incident, by: str, now: float) -> Iterator[IncidentEvent]:
        """Take an acknowledgement; only the first one counts."""
        if incident.acknowledged is None:
            incident.acknowledged = by
            yield self._reporter.event(incident, "update", now, f"acknowledged by {by}")

    def rebase(self, incident: Incident, now: float) -> None:
        """Let no time lie in the future: the clock of the computer was set back."""
        incident.since = min(incident.since, now)
        incident.alert_at = self._reporter.next_alert(incident, now)

    def _rises_at(self, incident: Incident) -> float | None:
        escalate = self._escalate
        if escalate is None or incident.severity == escalate.to or incident.acknowledged is not None:
            return None
        return incident.since + escalate.after
