"""The mode and the snoozes, as the commands in the ledger have set them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

from streamer.events.command_data import CommandData
from streamer.events.part import UnixSecond, unix_time


@dataclass(slots=True)
class SnoozeState:
    """Nobody is notified of these incidents until the snooze ends."""

    rule: str | None
    """None: all rules."""
    stream: str | None
    """None: all streams."""
    until: UnixSecond
    """Unix second."""
    by: str


@dataclass(slots=True)
class ControlState:
    mode: str | None = None
    switched_at: UnixSecond | None = None
    """Unix second of the last switch; None if there was none."""
    switched_by: str | None = None
    snoozes: list[SnoozeState] = field(default_factory=list)


class Controls:
    """Commands of people and schedules, for all rules of an engine. A function of the commands alone."""

    def __init__(self, modes: Collection[str] = ()) -> None:
        """`modes`: names of the modes, the first one is the mode before the first switch."""
        self.modes = modes
        self.state = ControlState(next(iter(modes), None))

    def is_armed(self, modes: Collection[str] | None) -> bool:
        """Return whether a rule with these modes may start incidents. None: in every mode."""
        return modes is None or self.state.mode in modes

    def snoozed_until(self, rule: str, stream: str, wall: float) -> float | None:
        """Return the unix second until which incidents of a rule on a stream are snoozed, None if they are not."""
        ends = [
            snooze.until
            for snooze in self.state.snoozes
            if snooze.rule in (None, rule) and snooze.stream in (None, stream) and wall < snooze.until
        ]
        return max(ends, default=None)

    def active(self, wall: float) -> list[SnoozeState]:
        """Return the snoozes that have not ended."""
        return [snooze for snooze in self.state.snoozes if wall < snooze.until]

    def switch(self, command: CommandData, wall: float) -> bool:
        """Switch to the mode of a command. Return False for a mode that the config does not have."""
        if command.mode not in self.modes:
            return False
        self.state.mode, self.state.switched_at, self.state.switched_by = command.mode, wall, command.by
        return True

    def snooze(self, command: CommandData, wall: float) -> None:
        """Begin or end a snooze. One without an end time ends all snoozes that lie within its rule and stream."""
        rule, stream = command.rule, command.stream
        kept = self.active(wall)
        if command.until is None:
            self.state.snoozes = [snooze for snooze in kept if not is_within(snooze, rule, stream)]
            return
        with suppress(ValueError, OverflowError):  # an end that is no time
            until = unix_time(command.until)
            self.state.snoozes = [snooze for snooze in kept if (snooze.rule, snooze.stream) != (rule, stream)]
            self.state.snoozes.append(SnoozeState(rule, stream, until, command.by))

    def rebase(self, before: float, now: float) -> None:
        """Keep what is left of each snooze: the clock of the computer was set back from `before` to `now`."""
        for snooze in self.state.snoozes:
            snooze.until = now + max(0.0, snooze.until - before)
        if self.state.switched_at is not None:
            self.state.switched_at = min(self.state.switched_at, now)

    def load(self, state: ControlState) -> None:
        """Continue from a stored state. A mode that the config has no more is the first one again."""
        if state.mode not in self.modes:
            state.mode, state.switched_at, state.switched_by = next(iter(self.modes), None), None, None
        self.state = state


def is_within(snooze: SnoozeState, rule: str | None, stream: str | None) -> bool:
    """Return whether all incidents that a snooze is about are of this rule and this stream. None: any."""
    return rule in (None, snooze.rule) and stream in (None, snooze.stream)
