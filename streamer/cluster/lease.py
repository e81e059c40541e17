"""Leases of hosts, granted by the hosts themselves. Pure; the clock is passed in.

A host may run its streams while a quorum of the hosts of the config has voted for it within the last lease. The
controller takes streams away from a host that it cannot reach by claiming a new epoch: a quorum of the hosts promises
to vote no more for the older order of that host, and reports for how long its last votes are valid. Any two quorums
share a host, so the lease is over by then. The controller is no voter: the hosts keep their leases without it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

DRIFT = 1.02
"""A vote counts this much longer at the voter than at the host that got it: their clocks differ in speed."""


def is_quorum(voters: Collection[str], hosts: Sequence[str]) -> bool:
    """Return whether these are more than half of the hosts, or half of them with the first one."""
    votes = 2 * len(set(voters) & set(hosts))
    return votes > len(hosts) or (votes == len(hosts) and hosts[0] in voters)


@dataclass(frozen=True, slots=True)
class Promises:
    """The state of a voter that outlives a restart."""

    epoch: int = 0
    """Highest epoch that a controller has claimed here."""
    barred: Mapping[str, int] = field(default_factory=dict)
    """Lowest epoch of an order that gets votes, by host."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Answer of a voter to a claim."""

    accepted: bool
    epoch: int
    """Highest epoch that was claimed there."""
    votes: Mapping[str, float]
    """Seconds for which a vote may still be valid, by host. A host that is absent has none."""


class Voter:
    """The votes of one host."""

    def __init__(self, hosts: Sequence[str], lease_s: float, promises: Promises, now: float) -> None:
        """`promises`: as they were saved; None of the votes given before `now` is known."""
        self.promises = promises
        self._lease_s = lease_s * DRIFT
        self._votes = dict.fromkeys(hosts, now + self._lease_s)

    def vote(self, host: str, epoch: int, now: float) -> int | None:
        """Vote for a host with an order of this epoch. Return None, or the epoch that its order needs at least."""
        needed = self.promises.barred.get(host, 0)
        if epoch < needed or host not in self._votes:
            return max(needed, epoch + 1)
        self._votes[host] = now + self._lease_s
        return None

    def claim(self, epoch: int, barred: Collection[str], now: float) -> Claimed:
        """Promise an epoch to the controller and bar the older orders of hosts. Save `promises` before answering."""
        accepted = epoch > self.promises.epoch
        if accepted:
            self.promises = Promises(epoch, {**self.promises.barred, **dict.fromkeys(barred, epoch)})
        votes = {host: until - now for host, until in self._votes.items() if until > now}
        return Claimed(accepted, self.promises.epoch, votes)


class Lease:
    """The lease of one host: the rounds in which it asks all hosts for votes."""

    def __init__(self, hosts: Sequence[str], lease_s: float) -> None:
        self._hosts, self._lease_s = hosts, lease_s
        self._asked: dict[int, float] = {}
        self._voters: dict[int, set[str]] = {}
        self._round = 0
        self.until = -math.inf
        """Second at which it ends."""

    def ask(self, now: float) -> int:
        """Begin a round; return its number. The lease counts from here, before any vote is given."""
        self._round += 1
        self._asked[self._round], self._voters[self._round] = now, set()
        for old in [number for number, asked in self._asked.items() if now - asked > self._lease_s]:
            del self._asked[old], self._voters[old]
        return self._round

    def add(self, number: int, voter: str) -> None:
        """A host has voted in a round."""
        if number in self._asked:
            self._voters[number].add(voter)
            if is_quorum(self._voters[number], self._hosts):
                self.until = max(self.until, self._asked[number] + self._lease_s)

    def is_held(self, now: float) -> bool:
        return now < self.until

    @property
    def next_round(self) -> int:
        return self._round + 1
