"""The streams that this agent shall run, and until when, as the last command `streams.run` says. Pure.

Times are seconds of CLOCK_BOOTTIME, which goes on while this process is stopped and while the computer sleeps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from streamer.bus.commands import RunningStreams, RunStreams
from streamer.core.errors import ConfigError


class WantedStreams:
    """Takes commands in the order of their epochs. Without one, the agent runs the streams that it began with."""

    def __init__(self, names: Iterable[str], first: Collection[str] | None = None) -> None:
        """`names`: streams of the config. `first`: those to begin with; None: all."""
        self._names = tuple(names)
        self.leases: dict[str, int | None] = {name: None for name in self._names if first is None or name in first}
        """Wanted streams, each with the epoch of the command with which the agent got it."""
        self.present: set[str] = set()
        """Streams that have processes or jobs, as `StreamProcesses` knows."""
        self.is_commanded = False
        """A command has come: the agent does not end with its streams."""
        self.reason = "as it was started"
        """The decision that names these streams, in words."""
        self._epoch: int | None = None
        self._until = math.inf

    @property
    def is_all(self) -> bool:
        return len(self.leases) == len(self._names)

    def take(self, command: RunStreams, now: float) -> bool:
        """Take a command whose names are in the config; return whether the streams change. Raises ConfigError."""
        if self._epoch is not None and (command.epoch is None or command.epoch < self._epoch):
            given = "no epoch" if command.epoch is None else f"epoch {command.epoch}"
            raise ConfigError(f"the command is late ({given}, the last one had {self._epoch}): ask who decides now")
        until = math.inf
        if command.lease_s is not None:
            until = min(now, now if command.since is None else command.since) + command.lease_s
        if until <= now:
            raise ConfigError(f"the lease of {command.lease_s:g} s is over already: renew it earlier")
        self.is_commanded, self._epoch, self._until = True, command.epoch, until
        wanted = {name: self.leases.get(name, command.epoch) for name in self._names if name in set(command.names)}
        is_changed = wanted.keys() != self.leases.keys()
        if is_changed:
            epoch = "" if command.epoch is None else f", epoch {command.epoch}"
            self.leases, self.reason = wanted, f"decided by {command.by}{epoch}"
        return is_changed

    def expire(self, now: float) -> bool:
        """Give up all streams if the lease is over; return whether there were any."""
        if now < self._until:
            return False
        self._until = math.inf
        had_streams = bool(self.leases)
        self.leases, self.reason = {}, "the lease was not renewed in time"
        return had_streams

    def describe(self, now: float) -> RunningStreams:
        """Return the answer to a command."""
        leaving = [name for name in self._names if name in self.present and name not in self.leases]
        left = None if math.isinf(self._until) else round(self._until - now, 3)
        return RunningStreams(running=list(self.leases), leaving=leaving, epoch=self._epoch, lease_left_s=left)
