"""The controller with simulated hosts and a simulated clock: no stream is lost or given away too early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.cluster.controller import Candidate, Controller, Order, Report, provisional_s
from streamer.cluster.lease import Lease, Promises, Voter
from streamer.cluster.placement import Placed

LEASE_S = 6.0
FAULTS = ("cut", "die", "mend", "headless", "control", "drain", "wait")
MOVE_S = provisional_s(LEASE_S)
STREAMS = tuple(f"s{number}" for number in range(12))


def place(hosts: Sequence[Candidate], current: Mapping[str, str]) -> Placed:
    """Keep what is placed; give the rest to the host with the fewest streams."""
    names = [host.name for host in hosts if not host.is_draining and host.capacity]
    placed = {stream: name for stream, name in current.items() if name in names}
    for stream in STREAMS if names else ():
        if stream not in placed:
            counts = {name: sum(place == name for place in placed.values()) for name in names}
            placed[stream] = min(names, key=lambda name: counts[name])
    return Placed(placed, {})


@dataclass
class Host:
    """A host of the simulation."""

    name: str
    voter: Voter
    lease: Lease
    order: Order = field(default_factory=Order)
    is_up: bool = True
    is_cut: bool = False
    """Neither the controller nor other hosts reach it."""
    is_silent: bool = False
    """The controller does not reach it, other hosts do."""
    problem: str | None = None
    give_up_at: dict[str, float] = field(default_factory=dict)
    answers: bool = True
    ran: dict[str, float] = field(default_factory=dict)
    """Second since which each stream runs."""

    def obey(self, order: Order, now: float) -> None:
        self.order = order
        self.give_up_at = {stream: self.give_up_at.get(stream, now + MOVE_S) for stream in order.provisional}

    def give_up(self, now: float) -> None:
        over = {stream for stream, until in self.give_up_at.items() if until <= now or not self.is_up}
        if over:
            self.obey(self.order.without(over), now)

    def confirm(self, other: Host, now: float) -> None:
        """Keep the streams that another host has given up, as it says in its vote."""
        moving = {stream for stream, source in self.order.provisional.items() if source == other.name}
        if given_up := moving - other.order.streams:
            self.obey(self.order.confirming(given_up), now)

    def runs(self, now: float) -> frozenset[str]:
        return self.order.streams if self.is_up and self.lease.is_held(now) else frozenset()


class Cluster:
    """Hosts, their links and one controller."""

    def __init__(self, names: str = "abc", exclusive: bool = True) -> None:
        self.names, self.now, self.exclusive = tuple(names), 1000.0, exclusive
        self.hosts = {
            name: Host(name, Voter(self.names, LEASE_S, Promises(), 900), Lease(self.names, LEASE_S)) for name in names
        }
        self.control: Controller | None = self.new_controller()
        self.double = 0.0
        """Longest time for which a stream ran on two hosts."""
        self._twice: dict[str, float] = {}

    def new_controller(self) -> Controller:
        return Controller(self.names, STREAMS, place, LEASE_S, self.exclusive)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self._renew()
            if self.control is not None and self.now % 1 == 0:
                self._step(self.control)
            self._watch()

    def reached(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.is_up and not host.is_cut and not host.is_silent]

    def places(self) -> dict[str, list[str]]:
        return {
            stream: [host.name for host in self.hosts.values() if stream in host.runs(self.now)] for stream in STREAMS
        }

    def all_run_once(self) -> bool:
        return all(len(names) == 1 for names in self.places().values())

    def _renew(self) -> None:
        for host in self.hosts.values():
            host.give_up(self.now)
            number = host.lease.ask(self.now)
            for other in self.hosts.values():
                is_linked = other is host or not (other.is_cut or host.is_cut)
                if not (is_linked and host.is_up and other.is_up):
                    continue
                if other.voter.vote(host.name, host.order.epoch, self.now) is None:
                    host.lease.add(number, other.name)
                    host.confirm(other, self.now)

    def _step(self, control: Controller) -> None:
        for host in self.reached():
            runs = host.runs(self.now)
            since = {stream: host.ran.get(stream, self.now) for stream in runs if host.answers}
            answering = frozenset(stream for stream, begin in since.items() if self.now - begin >= 1)
            claimed, has_lease = host.voter.promises.epoch, host.lease.is_held(self.now)
            left = {stream: until - self.now for stream, until in host.give_up_at.items()}
            report = Report(host.order, has_lease, answering, claimed, 10.0, host.problem, left=left)
            control.report(host.name, report, self.now)
        if claim := control.claim(self.now):
            answers = {host.name: host.voter.claim(*claim, self.now) for host in self.reached()}
            control.claimed(answers, self.now)
        for name, order in control.orders(self.now).items():
            host = self.hosts[name]
            if order.epoch >= host.voter.promises.epoch:
                host.obey(order, self.now)

    def _watch(self) -> None:
        for host in self.hosts.values():
            runs = host.runs(self.now)
            host.ran = {stream: host.ran.get(stream, self.now) for stream in runs}
        for stream, names in self.places().items():
            if len(names) < 2:
                self._twice.pop(stream, None)
            else:
                self.double = max(self.double, self.now - self._twice.setdefault(stream, self.now))


def test_streams_are_spread_over_the_hosts() -> None:
    cluster = Cluster()
    cluster.run(5)
    assert cluster.all_run_once()
    assert {names[0] for names in cluster.places().values()} == {"a", "b", "c"}


def test_streams_of_a_dead_host_run_within_12_s() -> None:
    cluster = Cluster()
    cluster.run(20)
    cluster.hosts["b"].is_up = False
    cluster.run(12)
    assert cluster.all_run_once()
    assert cluster.double == 0


def test_a_cut_host_stops_before_others_start() -> None:
    cluster = Cluster()
    cluster.run(20)
    cluster.hosts["b"].is_cut = True
    cluster.run(60)
    assert not cluster.hosts["b"].runs(cluster.now)
    assert cluster.all_run_once()
    assert cluster.double == 0
    assert cluster.control is not None
    cluster.control.drain("b", True)  # it is not known to be without streams
    assert cluster.control.state("b", cluster.now)["state"] == "out of reach"
    cluster.control.drain("b", False)
    cluster.hosts["b"].is_cut = False
    cluster.run(60)
    assert cluster.all_run_once()
    assert cluster.double <= LEASE_S


def test_without_a_controller_all_streams_go_on() -> None:
    cluster = Cluster()
    cluster.run(20)
    before, cluster.control = cluster.places(), None
    cluster.run(300)
    assert cluster.places() == before
    cluster.control = cluster.new_controller()
    cluster.run(30)
    assert cluster.places() == before
    assert not cluster.control.waiting(cluster.now)


def test_a_new_controller_waits_for_an_unknown_lease() -> None:
    """The host out of reach runs streams that the new controller has never heard of."""
    cluster = Cluster()
    cluster.run(20)
    cluster.hosts["c"].is_cut = True
    cluster.control = cluster.new_controller()
    cluster.run(30)
    assert cluster.all_run_once()
    assert cluster.double == 0


def test_a_new_controller_waits_for_hosts_that_answer_late() -> None:
    cluster = Cluster()
    cluster.run(20)
    before, cluster.control = {host.name: host.order for host in cluster.hosts.values()}, cluster.new_controller()
    for host in cluster.hosts.values():
        host.is_silent = True
    for name in "bac":
        cluster.run(15 if name == "b" else 2)
        cluster.hosts[name].is_silent = False
    cluster.run(20)
    assert {host.name: host.order for host in cluster.hosts.values()} == before


def test_a_barred_host_that_is_back_keeps_its_streams() -> None:
    """Also those that the balance of the load wants elsewhere: they move later, without a gap."""
    cluster = Cluster()
    cluster.run(20)
    name = cluster.places()["s0"][0]
    other = next(host for host in cluster.names if host != name)

    def place_elsewhere(hosts: Sequence[Candidate], current: Mapping[str, str]) -> Placed:
        return Placed({**place(hosts, current).host_of, "s0": other}, {})

    cluster.control = Controller(cluster.names, STREAMS, place_elsewhere, LEASE_S, True)
    cluster.run(20)
    cluster.hosts[name].is_silent = True
    cluster.run(7)
    cluster.hosts[name].is_silent = False
    for _ in range(120):
        cluster.run(0.5)
        assert all(cluster.places().values())
    assert cluster.places()["s0"] == [other]


def test_a_minority_places_nothing() -> None:
    cluster = Cluster()
    cluster.run(20)
    cluster.hosts["a"].is_cut = cluster.hosts["b"].is_cut = True
    cluster.run(60)
    assert not any(cluster.places().values())


def test_an_outage_shorter_than_the_lease_moves_nothing() -> None:
    cluster = Cluster()
    cluster.run(20)
    before = cluster.places()
    cluster.hosts["b"].is_cut = True
    cluster.run(4)
    cluster.hosts["b"].is_cut = False
    for _ in range(40):
        cluster.run(0.5)
        assert all(cluster.places().values())
    assert cluster.places() == before


def test_not_exclusive_streams_are_given_away_at_once() -> None:
    cluster = Cluster(exclusive=False)
    cluster.run(20)
    for name in "bc":
        cluster.hosts[name].is_cut = True
    cluster.run(6)
    assert cluster.hosts["a"].order.streams == set(STREAMS)


def test_drained_host_keeps_a_stream_until_another_answers() -> None:
    cluster = Cluster()
    cluster.run(20)
    assert cluster.control is not None
    cluster.control.drain("a", True)
    epoch = cluster.hosts["a"].order.epoch
    for _ in range(80):
        cluster.run(0.5)
        assert all(cluster.places().values())
    assert not cluster.hosts["a"].order.streams
    assert cluster.all_run_once()
    assert cluster.double <= LEASE_S
    assert max(host.order.epoch for host in cluster.hosts.values()) > epoch


@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_a_new_controller_goes_on_with_a_drain(seconds: int) -> None:
    cluster = Cluster()
    cluster.run(20)
    assert cluster.control is not None
    cluster.control.drain("a", True)
    cluster.run(seconds)
    assert cluster.hosts["a"].order.streams
    assert cluster.hosts["a"].order.is_draining
    cluster.control = None
    cluster.run(40)
    assert cluster.all_run_once()
    cluster.control = cluster.new_controller()
    cluster.run(80)
    assert cluster.control.state("a", cluster.now)["state"] == "draining"
    assert not cluster.hosts["a"].order.streams
    assert cluster.all_run_once()
    cluster.control = cluster.new_controller()
    cluster.run(10)
    cluster.control.drain("a", False)
    cluster.run(10)
    assert cluster.control.state("a", cluster.now)["state"] == "up"
    assert not cluster.hosts["a"].order.is_draining


def test_a_drained_host_that_dies_is_drained_when_back() -> None:
    cluster = Cluster()
    cluster.run(20)
    assert cluster.control is not None
    cluster.control.drain("a", True)
    cluster.run(5)
    cluster.hosts["a"].is_up = False
    cluster.control = cluster.new_controller()
    cluster.run(40)
    assert all(names and names != ["a"] for names in cluster.places().values())
    cluster.hosts["a"].is_up = True
    cluster.run(90)
    assert not cluster.hosts["a"].order.streams
    assert cluster.control.state("a", cluster.now)["state"] == "draining"


def test_a_host_whose_agent_fails_gets_no_streams() -> None:
    cluster = Cluster()
    cluster.hosts["c"].problem = "its config differs"
    cluster.run(20)
    assert not cluster.hosts["c"].order.streams
    assert cluster.all_run_once()


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 5, 30])
def test_a_move_without_controller_ends_on_one_host(seconds: int) -> None:
    """The move may be over or not. The source keeps the stream, or the target has it for good: it always runs."""
    cluster = Cluster()
    cluster.run(20)
    assert cluster.control is not None
    cluster.control.drain("a", True)
    for host in cluster.hosts.values():
        host.answers = seconds < 5
    cluster.run(seconds)
    cluster.control = None
    for _ in range(60):
        cluster.run(0.5)
        assert all(cluster.places().values())
    assert cluster.all_run_once()
    assert cluster.double <= MOVE_S
    cluster.control = cluster.new_controller()
    cluster.run(30)
    assert cluster.all_run_once()


def test_streams_that_do_not_answer_move_after_a_lease() -> None:
    cluster = Cluster()
    cluster.run(20)
    assert cluster.control is not None
    for host in cluster.hosts.values():
        host.answers = False
    cluster.control.drain("a", True)
    for _ in range(120):
        cluster.run(0.5)
        assert all(cluster.places().values())
    assert not cluster.hosts["a"].order.streams
    assert not any(host.order.provisional for host in cluster.hosts.values())
    assert LEASE_S - 1 <= cluster.double <= LEASE_S + 3


@given(st.lists(st.tuples(st.sampled_from(FAULTS), st.sampled_from("abcd"), st.integers(1, 9)), max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_faults_leave_no_stream_twice_for_long(faults: list[tuple[str, str, int]]) -> None:
    cluster = Cluster("abcd")
    cluster.run(7)
    for fault, name, pause in faults:
        host = cluster.hosts[name]
        match fault:
            case "cut":
                host.is_cut = True
            case "die":
                host.is_up = False
            case "mend":
                host.is_up, host.is_cut = True, False
            case "headless":
                cluster.control = None
            case "control":
                cluster.control = cluster.new_controller()
            case "drain" if cluster.control:
                cluster.control.drain(name, not host.order.is_draining)
        cluster.run(pause)
    for host in cluster.hosts.values():
        host.is_up, host.is_cut = True, False
    cluster.control = cluster.new_controller()
    for name in cluster.names:
        cluster.control.drain(name, False)
    cluster.run(60)
    assert cluster.double <= MOVE_S
    assert cluster.all_run_once()
    assert not any(host.order.provisional for host in cluster.hosts.values())


@pytest.mark.parametrize("names", ["a", "ab", "abcd"])
def test_clusters_of_other_sizes(names: str) -> None:
    cluster = Cluster(names)
    cluster.run(20)
    assert cluster.all_run_once()


def test_a_lower_epoch_is_never_ordered() -> None:
    control = Controller(("a",), STREAMS, place, LEASE_S, True)
    voter = Voter(("a",), LEASE_S, Promises(41), -math.inf)
    control.report("a", Report(Order(37), True, frozenset(), 41, 1.0), 0)
    claim = control.claim(0)
    assert claim == (42, frozenset())
    control.claimed({"a": voter.claim(*claim, 0)}, 0)
    assert control.orders(0)["a"].epoch == 42
