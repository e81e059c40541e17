"""Placement: which inference process serves which stream, where a model has several devices. Pure; the clock is
passed in.

A stream keeps its process. It moves for two reasons: its process is lost, or the processes have been loaded unequally
for a while, for example because a lost one is back. Load is in device seconds per second of a reference device; a
process of speed 2 needs half the time. Equal input gives equal placements: names decide between equals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SETTLE_S = 5.0
"""Seconds for which a process must be up, and the loads unequal, before a stream moves to balance them."""
MOVE_GAP_S = 1.0
"""Seconds between two such moves: a stream without answers during a move is the only one."""
MIN_GAP = 0.2
"""The loads are unequal if the idlest process has this share less than the busiest: more than measurements vary."""
MIN_LOAD = 1e-3
"""Load of a stream whose tasks are all paused: such streams are spread too."""
RECORDING_LOAD = 1.0
"""Load of a recording: it uses whatever a device has left."""


@dataclass(slots=True)
class _Process:
    speed: float = 1.0
    up_since: float | None = None
    """Monotonic second at which it became ready; None while it does not answer."""
    lost: bool = False
    """It has ended and is not ready again. One that is starting for the first time is not lost."""
    stands_by: bool = False
    """It gets streams only while no other process is up: its model is not the chosen one."""


class Placement:
    """`process_of` is the plan; the parent makes it true."""

    def __init__(self, processes: Sequence[str | None], loads: Mapping[str, float], fixed: frozenset[str]) -> None:
        """`processes`: their targets, as of `Child.target`. `loads`: by stream. `fixed`: streams that are never moved
        away from a process that is up, because another process cannot continue exactly where it was."""
        self._processes = {name: _Process() for name in processes}
        self._loads = {stream: max(load, MIN_LOAD) for stream, load in loads.items()}
        self._fixed = fixed
        self._unequal_since: float | None = None
        self._next_move = -math.inf
        self.process_of: dict[str, str | None] = {}
        self._place(self._loads, list(self._processes))

    def is_up(self, process: str | None) -> bool:
        """Return whether the process answers."""
        return self._processes[process].up_since is not None

    def up(self, process: str | None, now: float) -> None:
        """The process is ready: it gets the streams of lost ones at once, others later (`balance`)."""
        state = self._processes[process]
        state.up_since, state.lost = now, False
        self._rescue()

    def lose(self, process: str | None) -> None:
        """The process has ended: its streams go to those that are up. Where none is, they wait for the first."""
        state = self._processes[process]
        state.up_since, state.lost = None, True
        self._rescue()

    def add_process(self, process: str | None) -> None:
        """A process is started beside another one of its device. It stands by."""
        self._processes[process] = _Process(stands_by=True)

    @property
    def chosen(self) -> tuple[str | None, ...]:
        """The processes that do not stand by."""
        return tuple(name for name, process in self._processes.items() if not process.stands_by)

    def substitute(self, old: str | None, new: str | None) -> None:
        """Let `new`, which is up, serve the streams of `old`, which stands by from now on."""
        self._processes[old].stands_by, self._processes[new].stands_by = True, False
        moving = [stream for stream, place in self.process_of.items() if place == old]
        self.process_of.update(dict.fromkeys(moving, new))

    def remove_process(self, process: str | None) -> None:
        """A process that is planned for no stream is gone."""
        del self._processes[process]

    def keep(self, stream: str, process: str | None) -> None:
        """The stream could not leave this process."""
        if stream in self.process_of:
            self.process_of[stream] = process

    def add(self, stream: str, load: float) -> None:
        """The stream is to be served too."""
        self._loads[stream] = max(load, MIN_LOAD)
        self._place({stream: self._loads[stream]}, self._ready() or self.chosen)

    def end(self, stream: str) -> None:
        """The stream has ended."""
        self._loads.pop(stream, None)
        self.process_of.pop(stream, None)

    def set_load(self, stream: str, load: float) -> None:
        """The tasks of the stream have changed."""
        if stream in self._loads:
            self._loads[stream] = max(load, MIN_LOAD)

    def set_speed(self, process: str | None, speed: float) -> None:
        """A process has measured how fast its device is, relative to the reference device."""
        self._processes[process].speed = speed

    def used(self, process: str | None) -> float:
        """Return the planned share of the device's time, 1: all."""
        placed = (self._loads[stream] for stream, place in self.process_of.items() if place == process)
        return sum(placed) / self._processes[process].speed

    def balance(self, now: float) -> str | None:
        """Move one stream if the loads have been unequal for `SETTLE_S`; return its name."""
        move = self._best_move()
        if move is None:
            self._unequal_since = None
            return None
        if self._unequal_since is None:
            self._unequal_since = now
        stream, target = move
        up_since = self._processes[target].up_since
        assert up_since is not None  # of `_best_move`
        if now < max(max(self._unequal_since, up_since) + SETTLE_S, self._next_move):
            return None
        self._next_move = now + MOVE_GAP_S
        self.process_of[stream] = target
        return stream

    def _best_move(self) -> tuple[str, str | None] | None:
        """Return the stream whose move to the idlest process helps most, and that process, if the loads are unequal."""
        used = {name: self.used(name) for name in self._ready()}
        if len(used) < 2:
            return None
        busiest, idlest = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        if used[busiest] - used[idlest] < MIN_GAP * used[busiest]:
            return None
        best: tuple[float, str] | None = None
        for stream in sorted(self.process_of):
            if self.process_of[stream] == busiest and stream not in self._fixed:
                load = self._loads[stream]
                left = used[busiest] - load / self._processes[busiest].speed
                gain = used[busiest] - max(left, used[idlest] + load / self._processes[idlest].speed)
                if gain > (best[0] if best else 0.0):
                    best = gain, stream
        return None if best is None else (best[1], idlest)

    def _ready(self) -> list[str | None]:
        """Return the processes that are up, without those that stand by if there are others."""
        up = [name for name in self._processes if self.is_up(name)]
        return [name for name in up if not self._processes[name].stands_by] or up

    def _rescue(self) -> None:
        """Place the streams of lost processes anew."""
        if ready := self._ready():
            lost = {stream for stream, place in self.process_of.items() if self._processes[place].lost}
            self._place({stream: self._loads[stream] for stream in lost}, ready)

    def _place(self, streams: Mapping[str, float], processes: Sequence[str | None]) -> None:
        """Give each of `streams`, the largest load first, to the process that is least used with it."""
        used = {name: self.used(name) for name in processes}
        for stream in streams:
            self.process_of.pop(stream, None)
        for stream, load in sorted(streams.items(), key=lambda item: (-item[1], item[0])):
            share = {name: load / self._processes[name].speed for name in processes}
            place = min(processes, key=lambda name: used[name] + share[name])
            used[place] += share[place]
            self.process_of[stream] = place
