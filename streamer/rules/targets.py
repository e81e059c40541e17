"""Decides which notification targets get an event of an incident. Pure: the time is that of the event."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from streamer.config.calendar import TimeWindows
from streamer.config.notify import NotifyField
from streamer.events.incident_data import SEVERITIES, Severity

IncidentState = Literal["start", "update", "end"]
LONGEST_S = 8 * 86400.0
"""Seconds within which quiet hours end unless they cover the whole week: a week, and a day for a set clock."""


class Choice(NamedTuple):
    """The targets of one event."""

    names: tuple[str, ...] = ()
    silent: bool = False
    """The event only changes the notifications that these targets have."""


NOBODY = Choice()


class Targets:
    """The targets of one rule.

    A target is alerted at the start of an incident and when its severity rises. In quiet hours nothing is sent; if the
    incident still goes on when they end, the target is alerted then.
    """

    def __init__(self, names: Collection[str], targets: Mapping[str, NotifyField], zone: ZoneInfo) -> None:
        """`names`: the targets of the rule; `targets`: all of the config; `zone`: time zone of the quiet hours."""
        self._targets = {name: targets[name] for name in names}
        self._all = targets
        self._quiet: dict[str, tuple[TimeWindows, int]] = {
            name: (replace(one.quiet.between, zone=zone), SEVERITIES.index(one.quiet.below))
            for name, one in targets.items()
            if one.quiet is not None
        }

    def choose(self, told: dict[str, Severity], severity: Severity, state: IncidentState, wall: float) -> Choice:
        """Return the targets of an event at second `wall`. `told`: severity of each target's last alert; updated."""
        alerts, changes = [], []
        if state == "end":  # also of targets that the rule had before the config was changed
            changes = [
                name
                for name, target in self._all.items()
                if name in told and target.end and not self._is_quiet(name, severity, wall)
            ]
            return Choice(tuple(changes), silent=bool(changes))
        for name, target in self._targets.items():
            if self._is_quiet(name, severity, wall):
                continue
            if _is_news(told.get(name), severity):
                alerts.append(name)
            elif target.replaces:
                changes.append(name)
        told.update(dict.fromkeys(alerts, severity))
        return Choice(tuple(alerts or changes), silent=bool(changes) and not alerts)

    def next_alert(self, told: Mapping[str, Severity], severity: Severity, wall: float) -> float | None:
        """Return the unix second at which the first target is to be alerted that is quiet at `wall`."""
        times = [
            self._quiet_until(name, wall)
            for name in self._targets
            if _is_news(told.get(name), severity) and self._is_quiet(name, severity, wall)
        ]
        return min((time for time in times if time is not None), default=None)

    def is_missing(self, told: Mapping[str, Severity], severity: Severity, wall: float) -> bool:
        """Return whether a target is to be alerted at `wall` and was not."""
        return any(
            _is_news(told.get(name), severity) and not self._is_quiet(name, severity, wall) for name in self._targets
        )

    def _is_quiet(self, name: str, severity: Severity, wall: float) -> bool:
        hours, below = self._quiet.get(name, (None, 0))
        return hours is not None and SEVERITIES.index(severity) < below and hours.is_open(wall)

    def _quiet_until(self, name: str, wall: float) -> float | None:
        hours, _ = self._quiet[name]
        _, end = next(hours.open_spans(wall, wall + LONGEST_S))
        return end if end < wall + LONGEST_S else None


NO_TARGETS = Targets((), {}, ZoneInfo(str(UTC)))


def _is_news(known: Severity | None, severity: Severity) -> bool:
    return known is None or SEVERITIES.index(severity) > SEVERITIES.index(known)
