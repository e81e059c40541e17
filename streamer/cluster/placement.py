"""Placement: which host runs which stream. Pure, without a clock: equal input gives equal placements.

A stream stays where it is as long as that host is up, has its labels and has room for it. Others go to the host that is
least used with them: first those that few hosts can run, of these the largest. Load is in device seconds per second. A
device has no room limit, so the devices of one host are divided by other rules, see `streamer/inference/placement.py`
and decision 0042.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

MIN_COST = 1e-3
"""Cost of a stream without fixed load, such as one whose tasks are all paused: such streams are spread too."""
MAX_MOVED = 0.1
"""Largest share of the streams that could stay which one placement moves all the same; one stream is always allowed."""
MIN_GAP = 0.2
"""Two hosts are unequally loaded if their loads differ by this share of their capacity: more than measurements vary."""
MAX_TRIES = 64
"""Streams without room for which one placement tries to move others."""
TRIED_HOSTS = 16
"""Hosts with the most room that one try looks at."""
SLACK = 1e-9
"""Share of a capacity that rounding may add."""

Labels = Mapping[str, str]
_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    capacity: float
    """Device seconds per second that its streams may need in all."""
    labels: Labels = field(default_factory=dict)
    state: Literal["up", "draining"] = "up"
    """A draining host gets no streams. It keeps those that fit nowhere else."""


@dataclass(frozen=True, slots=True)
class Stream:
    name: str
    cost: float
    """Device seconds per second that it needs at most."""
    labels: Labels = field(default_factory=dict)
    """Labels that its host must have."""


@dataclass(frozen=True, slots=True)
class Placed:
    host_of: dict[str, str]
    """Host by stream. Streams without a host are missing."""
    waiting: dict[str, str]
    """Reason, by stream, why it has no host or cannot leave a draining one."""


def place(hosts: Sequence[Host], streams: Sequence[Stream], current: Mapping[str, str], *, balance: int = 1) -> Placed:
    """Return the host of each stream. No host gets more than its capacity.

    `hosts`: those in reach. `current`: host by stream; unknown names are ignored. `balance`: largest number of streams
    that move only because hosts are unequally loaded; none moves in a call that places other streams.
    """
    table = _Table(hosts)
    ordered = sorted(streams, key=lambda stream: (int(table.suitable(stream).sum()), -stream.cost, stream.name))
    homeless: list[Stream] = []
    leaving: list[Stream] = []
    for stream in ordered:
        host = table.index.get(current.get(stream.name, ""))
        if host is None:
            homeless.append(stream)
        elif table.fits(stream, host):
            table.put(stream, host)
        else:
            (leaving if table.is_draining(host) else homeless).append(stream)
    allowed = max(1, int(MAX_MOVED * len(table.host_of)))
    kept = dict(table.host_of)
    waiting = table.put_all(homeless, kept, allowed)
    allowed -= sum(table.host_of[name] != host for name, host in kept.items())
    stuck = table.put_all(leaving, kept, allowed)
    waiting |= stuck
    for stream in leaving:
        host = table.index[current[stream.name]]
        if stream.name in stuck and table.has_room(stream, host):
            waiting[stream.name] = f"cannot leave {current[stream.name]}, which is draining: {stuck[stream.name]}"
            table.put(stream, host)
    if not (homeless or leaving):
        table.balance(min(balance, allowed))
    names = [host.name for host in table.hosts]
    return Placed({name: names[host] for name, host in sorted(table.host_of.items())}, waiting)


class _Table:
    """The hosts as arrays, sorted by name, with the streams that they have."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.hosts = sorted(hosts, key=lambda host: host.name)
        self.index = {host.name: number for number, host in enumerate(self.hosts)}
        self.capacity: _Floats = np.array([max(host.capacity, 0.0) for host in self.hosts], np.float64)
        self._limit = self.capacity * (1 + SLACK)
        self._used = np.zeros(len(self.hosts))
        self._streams: list[dict[str, Stream]] = [{} for _ in self.hosts]
        self._suitable: dict[frozenset[tuple[str, str]], _Bools] = {}
        self.host_of: dict[str, int] = {}

    def is_draining(self, host: int) -> bool:
        return self.hosts[host].state == "draining"

    def suitable(self, stream: Stream) -> _Bools:
        """Return which hosts may get the stream, by state and labels."""
        needed = frozenset(stream.labels.items())
        if needed not in self._suitable:
            has = [host.state == "up" and host.capacity > 0 and needed <= host.labels.items() for host in self.hosts]
            self._suitable[needed] = np.array(has, np.bool_)
        return self._suitable[needed]

    def has_room(self, stream: Stream, host: int) -> bool:
        """Return whether the host has the labels and the room, also if it is draining."""
        has_labels = stream.labels.items() <= self.hosts[host].labels.items()
        return has_labels and bool(self._used[host] + _cost(stream) <= self._limit[host])

    def fits(self, stream: Stream, host: int) -> bool:
        return not self.is_draining(host) and self.has_room(stream, host)

    def put(self, stream: Stream, host: int) -> None:
        self._used[host] += _cost(stream)
        self._streams[host][stream.name] = stream
        self.host_of[stream.name] = host

    def take(self, stream: Stream) -> None:
        host = self.host_of.pop(stream.name)
        del self._streams[host][stream.name]
        self._used[host] = sum(_cost(one) for one in self._streams[host].values())

    def best(self, stream: Stream, without: int | None = None) -> int | None:
        """Return the host that is least used with the stream, or None if it fits on none."""
        if not self.hosts:
            return None
        after = self._used + _cost(stream)
        may = self.suitable(stream) & (after <= self._limit)
        if without is not None:
            may[without] = False
        share = np.divide(after, self.capacity, out=np.full(len(after), np.inf), where=may)
        host = int(share.argmin())
        return host if may[host] else None

    def put_all(self, streams: Sequence[Stream], kept: Mapping[str, int], allowed: int) -> dict[str, str]:
        """Place streams and return why the others have no host. At most `allowed` of `kept` are moved for them."""
        waiting: list[Stream] = []
        movable = {name for name, host in kept.items() if self.host_of[name] == host}
        for stream in streams:
            host = self.best(stream)
            if host is None:
                waiting.append(stream)
            else:
                self.put(stream, host)
        still = []
        for number, stream in enumerate(waiting):
            moved = self._make_room(stream, movable, allowed) if number < MAX_TRIES and allowed else 0
            allowed -= moved
            if not moved:
                still.append(stream)
        return {stream.name: self._reason(stream) for stream in still}

    def balance(self, moves: int) -> None:
        """Move at most so many streams from hosts with a higher load to hosts with a lower one."""
        for _ in range(moves):
            move = self._best_move()
            if move is None:
                return
            stream, target = move
            self.take(stream)
            self.put(stream, target)

    def _best_move(self) -> tuple[Stream, int] | None:
        """Return the stream whose move away from the busiest host helps most, and its target.

        If none of the busiest host can move, the next one is looked at.
        """
        share = np.divide(self._used, self.capacity, out=np.zeros(len(self.hosts)), where=self.capacity > 0)
        for source in sorted(range(len(share)), key=lambda host: (-share[host], host)):
            best: tuple[float, Stream, int] | None = None
            for stream in sorted(self._streams[source].values(), key=lambda one: one.name):
                target = self._idlest(stream, share)
                if share[source] - share[target] < MIN_GAP or not self.fits(stream, target):
                    continue
                cost = _cost(stream)
                after = max(share[source] - cost / self.capacity[source], share[target] + cost / self.capacity[target])
                if share[source] - after > (best[0] if best else SLACK):
                    best = share[source] - after, stream, target
            if best is not None:
                return best[1], best[2]
        return None

    def _idlest(self, stream: Stream, share: _Floats) -> int:
        return int(np.where(self.suitable(stream), share, np.inf).argmin())

    def _make_room(self, stream: Stream, movable: set[str], allowed: int) -> int:
        """Place a stream by moving some of `movable`; return how many, 0 if that is impossible."""
        cost, free = _cost(stream), self._limit - self._used
        may = self.suitable(stream) & (self._limit >= cost)
        if free.sum() < cost:
            return 0
        for host in sorted(np.flatnonzero(may).tolist(), key=lambda one: (-free[one], one))[:TRIED_HOSTS]:
            moved = self._move_away(host, cost - float(free[host]), movable, allowed)
            if moved:
                self.put(stream, host)
                movable.difference_update(moved)
                return len(moved)
        return 0

    def _move_away(self, host: int, needed: float, movable: set[str], allowed: int) -> list[str]:
        """Move streams away from a host until `needed` is free; move none if that takes more than `allowed`."""
        there = [one for one in self._streams[host].values() if one.name in movable]
        if sum(sorted(map(_cost, there))[-allowed:]) < needed:
            return []
        # The smallest one that is enough alone comes first, then the largest ones.
        there.sort(key=lambda one: (_cost(one) < needed, abs(_cost(one) - needed), one.name))
        moved: list[Stream] = []
        room = float(np.delete(self._limit - self._used, host).max(initial=0.0))
        for one in there:
            if needed <= 0 or len(moved) == allowed:
                break
            target = self.best(one, without=host) if _cost(one) <= room else None
            if target is not None:
                self.take(one)
                self.put(one, target)
                moved.append(one)
                needed -= _cost(one)
        if needed > 0:
            for one in moved:
                self.take(one)
                self.put(one, host)
            return []
        return [one.name for one in moved]

    def _reason(self, stream: Stream) -> str:
        up = np.array([host.state == "up" and host.capacity > 0 for host in self.hosts], np.bool_)
        if not up.any():
            return "no host is up"
        suitable, labels = self.suitable(stream), _in_words(stream.labels)
        if not suitable.any():
            return f"no host that is up has {labels}"
        among = f" with {labels}" if stream.labels else ""
        largest = float(self.capacity[suitable].max())
        if _cost(stream) > largest * (1 + SLACK):
            return f"needs {_cost(stream):.3g} device seconds per second, the largest host{among} has {largest:.3g}"
        left = max(0.0, float((self._limit - self._used)[suitable].max()))
        return f"needs {_cost(stream):.3g} device seconds per second, no host{among} has more than {left:.3g} left"


def _cost(stream: Stream) -> float:
    return max(stream.cost, MIN_COST)


def _in_words(labels: Labels) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sorted(labels.items()))
