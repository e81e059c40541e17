"""Decides which host runs which stream. Pure: reports of the hosts come in, claims and orders go out.

All state that matters is in the reports, so a new controller continues where the last one was:

    host      an order (epoch, streams, whether it is draining), its lease, and the streams that answer
    voter     the highest epoch claimed, and the hosts that are barred (`lease.py`)

A stream without a host is placed only when no other host can run it: those in reach report that they have given it
up, those out of reach were barred and their votes have ended.

A planned move gives the stream to its new host first. There it is *provisional*: the host gives it up by itself after
`provisional_s`, unless it is confirmed. When it answers there, the controller takes it from the old host. The new host
asks the old one about it with each vote, and keeps it when the old one has given it up. The controller confirms it
where the old host is lost. All of this is in the reports too, so a move needs no memory here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from streamer.cluster.lease import Claimed, is_quorum
from streamer.cluster.placement import Placed

LOST_S = 5.0
"""Seconds without a report after which a host is out of reach."""
START_S = 10.0
"""Seconds after its first report for which a new controller waits for all hosts, before it bars the others."""
WAITS = "waits until no host out of reach can run it"
SETTLE_S = 30.0
"""Seconds for which a host must be in reach before streams of other hosts move to it."""
MOVE_GAP_S = 5.0
"""Seconds between two moves that only balance the load."""
CONFIRM_S = 10.0
"""Seconds of a move after the lease in which its stream should answer. The last half of them is to confirm it."""


def provisional_s(lease_s: float) -> float:
    """Return the seconds after which a host gives up a provisional stream: a lease to answer, the rest to confirm."""
    return lease_s + CONFIRM_S


@dataclass(frozen=True, slots=True)
class Order:
    """The streams that a host runs."""

    epoch: int = 0
    streams: frozenset[str] = frozenset()
    provisional: Mapping[str, str] = field(default_factory=dict)
    """Those of them that the host gives up by itself unless they are confirmed, with the host that they come from."""
    is_draining: bool = False
    """The host gets no more streams. It keeps this for the next controller."""

    def without(self, streams: Iterable[str]) -> Order:
        """Return the order without these streams."""
        return replace(self.confirming(streams), streams=self.streams.difference(streams))

    def confirming(self, streams: Iterable[str]) -> Order:
        """Return the order with these streams confirmed."""
        return replace(self, provisional={name: self.provisional[name] for name in self.provisional.keys() - streams})


@dataclass(frozen=True, slots=True)
class Report:
    """The state of a host, as it reports it."""

    order: Order
    has_lease: bool
    answering: frozenset[str]
    """Streams with an answer since they were started there."""
    claimed: int
    """Highest epoch that a controller has claimed there."""
    capacity: float
    """Device seconds per second, in the unit of the streams' costs. 0: it only votes."""
    problem: str | None = None
    """Reason why its agent runs no streams."""
    leaving: frozenset[str] = frozenset()
    """Streams that it gives up, whose processes have not ended yet."""
    left: Mapping[str, float] = field(default_factory=dict)
    """Seconds until it gives up a provisional stream."""


@dataclass(slots=True)
class _Host:
    report: Report | None = None
    seen: float = -math.inf
    since: float = math.inf
    """Begin of the present time in reach."""
    is_barred: bool = False
    """Its order was barred since it is out of reach."""
    free_at: float = math.inf
    """Second from which no vote for the barred order is valid."""
    needed: int = 0
    """Lowest epoch of an order that gets votes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host as the placement sees it."""

    name: str
    capacity: float
    is_draining: bool


Place = Callable[[Sequence[Candidate], Mapping[str, str]], Placed]
"""Returns the hosts of the streams, from the hosts in reach and the present ones."""


class _Wanted:
    """The orders that hosts in reach shall have, while they are decided."""

    def __init__(self, held: Mapping[str, frozenset[str]], provisional: Mapping[str, Mapping[str, str]]) -> None:
        self.streams = {name: set(streams) for name, streams in held.items()}
        self.provisional = {
            name: {stream: source for stream, source in provisional[name].items() if stream in streams}
            for name, streams in self.streams.items()
        }

    def holders(self, stream: str) -> tuple[list[str], list[str]]:
        """Return the hosts that hold a stream for good, and those that hold it provisionally."""
        names = [name for name, streams in self.streams.items() if stream in streams]
        provisional = [name for name in names if stream in self.provisional[name]]
        return [name for name in names if name not in provisional], provisional

    def take(self, stream: str, names: Iterable[str]) -> None:
        for name in names:
            self.streams[name].discard(stream)
            self.provisional[name].pop(stream, None)


class Controller:
    """Call in turn `report`, `claim` and `claimed`, `orders`; about once a second."""

    def __init__(self, hosts: Sequence[str], streams: Sequence[str], place: Place, lease_s: float, exclusive: bool):
        """`hosts`: all voters, in the order of the config."""
        self._names, self._streams, self._place = tuple(hosts), tuple(streams), place
        self._lease_s, self._exclusive = lease_s, exclusive
        self._hosts = {name: _Host() for name in hosts}
        self._next_move = -math.inf
        self._began = math.inf
        self._highest = 0
        self._lost: frozenset[str] = frozenset()
        self._is_used = False
        self._reasons: Mapping[str, str] = {}
        self.epoch: int | None = None
        """The epoch of new orders; None until a quorum has promised one."""
        self._drains: dict[str, bool] = {}
        """Decisions since this controller began, by host. Without one the order of the host holds."""

    def drain(self, name: str, is_draining: bool) -> None:
        """Move the streams of a host to others, or end that. The host keeps it when its next order has arrived."""
        self._drains[name] = is_draining

    def report(self, name: str, report: Report | None, now: float) -> None:
        """Note the report of a host, None if it did not answer."""
        host = self._hosts[name]
        if report is None:
            return
        if now - host.seen > LOST_S:
            host.since = now
        host.report, host.seen = report, now

    def in_reach(self, now: float) -> list[str]:
        return [name for name, host in self._hosts.items() if now - host.seen <= LOST_S]

    def claim(self, now: float) -> tuple[int, frozenset[str]] | None:
        """Return the epoch to claim at all hosts in reach and the hosts to bar, or None if there is no need.

        Each change of the placement has an epoch of its own, so that the events of a stream's new host have a higher
        one than those of the old host.
        """
        reach = set(self.in_reach(now))
        self._began = min(self._began, now) if reach else self._began
        self._lost = frozenset(self._names) - reach
        if self.epoch is None:
            if not reach or (self._lost and now - self._began < START_S):
                return None
        elif not self._is_used and all(self._hosts[name].is_barred for name in self._lost):
            return None
        if self._exclusive and not is_quorum(reach, self._names):
            return None
        reports = [host.report for host in self._hosts.values() if host.report]
        known = [max(report.claimed, report.order.epoch) for report in reports]
        self._highest = max(self._highest, *known) + 1
        return self._highest, self._lost

    def claimed(self, answers: Mapping[str, Claimed], now: float) -> None:
        """Note the answers of the hosts to the claim. Without a quorum it is repeated later, with a higher epoch."""
        epoch = self._highest
        accepted = [name for name, answer in answers.items() if answer.accepted]
        self._highest = max([epoch, *(answer.epoch for answer in answers.values())])
        if self._exclusive and not is_quorum(accepted, self._names):
            return
        self.epoch, self._is_used = epoch, False
        for name in self._lost:
            left = max((answers[voter].votes.get(name, 0.0) for voter in accepted), default=0.0)
            host = self._hosts[name]
            host.is_barred, host.needed = True, epoch
            host.free_at = min(host.free_at, now + left) if self._exclusive else now

    def orders(self, now: float) -> dict[str, Order]:
        """Return the orders that differ from those that the hosts in reach have reported."""
        if self.epoch is None or self._is_used:
            return {}
        reports = {name: self._report(name) for name in self.in_reach(now)}
        wanted = _Wanted(
            {name: self._held(name, now) for name in reports},
            {name: report.order.provisional for name, report in reports.items()},
        )
        is_settled = all(host.free_at <= now for name, host in self._hosts.items() if name not in reports)
        if is_settled:
            self._finish_moves(wanted)
            self._plan(wanted, now)
        orders = {}
        for name, report in reports.items():
            host, order = self._hosts[name], report.order
            host.is_barred, host.free_at = False, math.inf
            is_draining = self._is_draining(name)
            new = Order(self.epoch, frozenset(wanted.streams[name]), wanted.provisional[name], is_draining)
            needs_newer = order.epoch < host.needed
            if needs_newer and not is_settled:
                continue  # it has no votes; it may get its streams back when no other host can have them
            if needs_newer or replace(new, epoch=order.epoch) != order:
                orders[name] = new
                self._is_used |= not new.streams <= order.streams
        return orders

    def state(self, name: str, now: float) -> dict[str, Any]:
        """Return the state of a host as plain data."""
        host, is_reached = self._hosts[name], name in self.in_reach(now)
        report = host.report
        is_draining = report is not None and report.order.is_draining
        return {
            "state": "out of reach" if not is_reached else "draining" if is_draining else "up",
            "has_lease": bool(report and report.has_lease and is_reached),
            "capacity": report.capacity if report else None,
            "streams": sorted(self._held(name, now)) if is_reached else [],
            "problem": (report.problem if report and is_reached else None) or "",
        }

    def waiting(self, now: float) -> dict[str, str]:
        """Return the streams that no host in reach has, and those that cannot leave one, with the reason."""
        held = {stream for name in self.in_reach(now) for stream in self._held(name, now)}
        others = {stream: WAITS for stream in self._streams if stream not in held}
        return {**others, **self._reasons}

    def _report(self, name: str) -> Report:
        report = self._hosts[name].report
        assert report is not None  # it is in reach
        return report

    def _is_draining(self, name: str) -> bool:
        return self._drains.get(name, self._report(name).order.is_draining)

    def _held(self, name: str, now: float) -> frozenset[str]:
        """Return the known streams that a host in reach holds; none if it cannot run any, or needs a newer order."""
        order = self._report(name).order
        is_valid = self._is_usable(name, now) and order.epoch >= self._hosts[name].needed
        return order.streams & set(self._streams) if is_valid else frozenset()

    def _is_usable(self, name: str, now: float) -> bool:
        report = self._report(name)
        has_lease = report.has_lease or not self._exclusive or now - self._hosts[name].since < self._lease_s
        return report.capacity > 0 and report.problem is None and has_lease

    def _finish_moves(self, wanted: _Wanted) -> None:
        """Take streams that have come to another host from the old one, and confirm those that it has given up."""
        for stream in self._streams:
            firm, provisional = wanted.holders(stream)
            # Several hold it for good when the lease of one was over and it is back: it runs at the newest only.
            wanted.take(stream, sorted(firm, key=self._epoch_of)[:-1])
            if not provisional:
                continue
            left = {name: self._report(name).left.get(stream, 0.0) for name in provisional}
            *others, target = sorted(provisional, key=lambda name: (left[name], name))
            wanted.take(stream, others)
            if self._is_free(stream, target, wanted):
                del wanted.provisional[target][stream]
            elif left[target] > CONFIRM_S / 2 and (
                stream in self._report(target).answering or left[target] <= CONFIRM_S
            ):
                wanted.take(stream, firm)

    def _is_free(self, stream: str, target: str, wanted: _Wanted) -> bool:
        """Return whether no host in reach but this one holds a stream, or has processes of it."""
        reports = {name: self._report(name) for name in wanted.streams}
        held = any(stream in report.order.streams for name, report in reports.items() if name != target)
        return not held and not any(stream in report.leaving for report in reports.values())

    def _epoch_of(self, name: str) -> tuple[int, str]:
        return self._report(name).order.epoch, name

    def _plan(self, wanted: _Wanted, now: float) -> None:
        """Add streams without a host to hosts, and begin at most one move."""
        usable = [name for name in wanted.streams if self._is_usable(name, now)]
        current = {stream: name for name in usable for stream in self._report(name).order.streams}
        for stream in self._streams:
            firm, provisional = wanted.holders(stream)
            if names := provisional or firm:
                current[stream] = names[0]
        candidates = [Candidate(name, self._report(name).capacity, self._is_draining(name)) for name in usable]
        placed = self._place(candidates, {stream: current[stream] for stream in self._streams if stream in current})
        self._reasons = placed.waiting
        is_moving = any(wanted.provisional.values())
        for stream in self._streams:
            target = placed.host_of.get(stream)
            if target is None:
                continue
            if not any(wanted.holders(stream)):
                target = current.get(stream, target)  # a barred host that is back has it: a move comes later
                if self._is_free(stream, target, wanted):
                    wanted.streams[target].add(stream)
            elif target == (source := current[stream]) or is_moving:
                continue
            elif self._may_move(source, target, now) and self._is_free(stream, source, wanted):
                is_moving, self._next_move = True, now + MOVE_GAP_S
                wanted.streams[target].add(stream)
                wanted.provisional[target][stream] = source

    def _may_move(self, source: str, target: str, now: float) -> bool:
        if self._is_draining(source):
            return True
        return now >= self._next_move and now - self._hosts[target].since >= SETTLE_S
