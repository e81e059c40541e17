"""Leases of hosts: quorums, votes, promises, and the end of a lease."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.cluster.lease import Lease, Promises, Voter, is_quorum

HOSTS = ("a", "b", "c")


@pytest.mark.parametrize("count", range(1, 7))
def test_any_two_quorums_share_a_host(count: int) -> None:
    hosts = [f"h{number}" for number in range(count)]
    groups = [set(group) for size in range(count + 1) for group in itertools.combinations(hosts, size)]
    quorums = [group for group in groups if is_quorum(group, hosts)]
    assert quorums
    assert all(one & other for one in quorums for other in quorums)


def test_unknown_hosts_do_not_count_for_a_quorum() -> None:
    assert not is_quorum({"a", "x", "y"}, HOSTS)


def test_a_lease_counts_from_the_question() -> None:
    lease = Lease(HOSTS, 6)
    number = lease.ask(100)
    lease.add(number, "a")
    assert not lease.is_held(100)
    lease.add(number, "c")
    assert lease.is_held(105.9)
    assert not lease.is_held(106)


def test_late_votes_of_an_old_round_extend_nothing() -> None:
    lease = Lease(HOSTS, 6)
    old = lease.ask(100)
    lease.ask(106.5)
    for voter in HOSTS:
        lease.add(old, voter)
    assert not lease.is_held(106.5)


def test_a_barred_order_gets_no_votes() -> None:
    voter = Voter(HOSTS, 6, Promises(), 0)
    assert voter.vote("b", 1, 10) is None
    assert voter.claim(2, {"b"}, 11).accepted
    assert voter.vote("b", 1, 12) == 2
    assert voter.vote("b", 2, 12) is None


def test_a_claim_tells_how_long_votes_are_valid() -> None:
    voter = Voter(HOSTS, 6, Promises(), 0)
    voter.vote("b", 1, 10)
    left = voter.claim(2, {"b"}, 12).votes
    assert left == {"b": pytest.approx(6 * 1.02 - 2)}


def test_a_restarted_voter_assumes_that_it_has_voted() -> None:
    before = Voter(HOSTS, 6, Promises(), 0)
    before.claim(5, {"b"}, 1)
    after = Voter(HOSTS, 6, before.promises, 100)
    assert after.claim(6, {"c"}, 101).votes["c"] >= 5
    assert after.vote("b", 4, 200) == 5


def test_an_epoch_is_claimed_once() -> None:
    voter = Voter(HOSTS, 6, Promises(7), 0)
    assert not voter.claim(7, {"b"}, 1).accepted
    assert voter.claim(7, (), 1).epoch == 7
    assert voter.vote("b", 1, 2) is None


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.floats(0, 3)), max_size=40),
    st.sets(st.sampled_from("abc"), min_size=2),
    st.floats(0, 40),
)
def test_no_lease_outlives_a_barred_order(
    asks: list[tuple[str, str, float]], reached: set[str], claim_at: float
) -> None:
    """Whatever messages arrive, a barred host has no lease when the votes that the quorum reported have ended."""
    voters = {name: Voter(HOSTS, 6, Promises(), -100) for name in HOSTS}
    lease, now, free_at = Lease(HOSTS, 6), 0.0, None
    for voter, other, pause in asks:
        now += pause
        if free_at is None and now >= claim_at:
            answers = [voters[name].claim(1, {"a"}, now) for name in sorted(reached)]
            free_at = now + max(answer.votes.get("a", 0.0) for answer in answers)
        number = lease.ask(now)
        for name in {voter, other}:
            if voters[name].vote("a", 0, now) is None:
                lease.add(number, name)
        if free_at is not None:
            assert lease.until <= free_at
