"""Placement of streams on hosts: limits, labels, stability, reasons."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from streamer.cluster.placement import MAX_MOVED, MIN_COST, Host, Placed, Stream, place

SITES = [{}, {"site": "north"}, {"site": "south"}, {"site": "north", "gpu": "yes"}]
HOSTS = st.lists(
    st.builds(
        Host,
        st.sampled_from("abcdefgh"),
        st.integers(0, 8).map(lambda tenths: tenths / 4),
        st.sampled_from(SITES),
        st.sampled_from(["up", "up", "up", "draining"]),
    ),
    max_size=8,
    unique_by=lambda host: host.name,
)
STREAMS = st.lists(
    st.builds(
        Stream,
        st.integers(0, 40).map("cam{}".format),
        st.integers(0, 12).map(lambda tenths: tenths / 10),
        st.sampled_from(SITES),
    ),
    max_size=40,
    unique_by=lambda stream: stream.name,
)
CURRENT = st.dictionaries(st.integers(0, 40).map("cam{}".format), st.sampled_from("abcdefghx"))


def used(placed: Placed, streams: Sequence[Stream]) -> dict[str, float]:
    loads: dict[str, float] = {}
    for stream in streams:
        if stream.name in placed.host_of:
            host = placed.host_of[stream.name]
            loads[host] = loads.get(host, 0.0) + max(stream.cost, MIN_COST)
    return loads


def moved(before: Mapping[str, str], placed: Placed) -> set[str]:
    return {name for name, host in before.items() if placed.host_of.get(name) != host}


@given(HOSTS, STREAMS, CURRENT)
@settings(max_examples=100, deadline=None)
def test_limits_labels_and_reasons_hold(hosts: list[Host], streams: list[Stream], current: dict[str, str]) -> None:
    placed = place(hosts, streams, current)
    by_name = {host.name: host for host in hosts}
    for name, load in used(placed, streams).items():
        assert load <= by_name[name].capacity + 1e-6
    for stream in streams:
        host = placed.host_of.get(stream.name)
        if host is None:
            assert placed.waiting[stream.name]
        else:
            assert stream.labels.items() <= by_name[host].labels.items()
            assert by_name[host].state == "up" or (current[stream.name] == host and placed.waiting[stream.name])
    assert placed.host_of.keys() | placed.waiting.keys() == {stream.name for stream in streams}


@given(HOSTS, STREAMS, CURRENT, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_the_input_does_not_matter(
    hosts: list[Host], streams: list[Stream], current: dict[str, str], shuffle: random.Random
) -> None:
    placed = place(hosts, streams, current)
    shuffled = dict(shuffle.sample(sorted(current.items()), len(current)))
    other = place(shuffle.sample(hosts, len(hosts)), shuffle.sample(streams, len(streams)), shuffled)
    assert (other.host_of, other.waiting) == (placed.host_of, placed.waiting)


@given(HOSTS, STREAMS, CURRENT)
@settings(max_examples=50, deadline=None)
def test_placed_streams_stay(hosts: list[Host], streams: list[Stream], current: dict[str, str]) -> None:
    first = place(hosts, streams, current)
    second = place(hosts, streams, first.host_of, balance=0)
    on_good_hosts = {name: host for name, host in first.host_of.items() if name not in first.waiting}
    assert len(moved(on_good_hosts, second)) <= max(1, MAX_MOVED * len(on_good_hosts))
    if not first.waiting:
        assert second.host_of == first.host_of


@given(HOSTS, STREAMS, st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_lost_host_moves_at_most_a_tenth_of_others(hosts: list[Host], streams: list[Stream], lost: int) -> None:
    first = place(hosts, streams, {})
    rest = [host for number, host in enumerate(hosts) if number != lost]
    second = place(rest, streams, first.host_of)
    names = {host.name for host in rest}
    others = {name: host for name, host in first.host_of.items() if host in names}
    assert len(moved(others, second)) <= max(1, MAX_MOVED * len(others))
    assert moved(others, second).isdisjoint(second.waiting)  # nobody loses its place to another one


def test_streams_move_to_make_room_for_one_that_has_none() -> None:
    hosts = [Host("a", 1.0), Host("b", 1.0)]
    streams = [Stream("one", 0.5), Stream("two", 0.5), Stream("large", 0.9)]
    before = {"one": "a", "two": "b"}
    placed = place(hosts, streams, before)
    assert len(placed.host_of) == 3
    assert len(moved(before, placed)) == 1
    assert not placed.waiting


def test_room_is_not_made_by_moving_more_than_a_tenth() -> None:
    hosts = [Host("a", 1.0), Host("b", 1.0)]
    streams = [Stream(f"small{number}", 0.1) for number in range(10)]
    before = {stream.name: "ab"[number % 2] for number, stream in enumerate(streams)}
    placed = place(hosts, [*streams, Stream("large", 1.0)], before)
    assert placed.host_of == before
    assert placed.waiting == {"large": "needs 1 device seconds per second, no host has more than 0.5 left"}


def test_unequal_loads_are_balanced_one_stream_at_a_time() -> None:
    hosts = [Host("a", 1.0), Host("b", 1.0)]
    streams = [Stream(f"cam{number}", 0.08) for number in range(10)]
    current: Mapping[str, str] = {stream.name: "a" for stream in streams}
    sizes = []
    for _ in range(6):
        placed = place(hosts, streams, current)
        assert len(moved(current, placed)) <= 1
        current = placed.host_of
        sizes.append(list(current.values()).count("b"))
    assert sizes == [1, 2, 3, 4, 4, 4]
    assert place(hosts, streams, dict.fromkeys(current, "a"), balance=0).host_of == dict.fromkeys(current, "a")


def test_a_draining_host_is_emptied_as_far_as_others_have_room() -> None:
    hosts = [Host("a", 1.0, state="draining"), Host("b", 0.5)]
    streams = [Stream("one", 0.4), Stream("two", 0.3)]
    placed = place(hosts, streams, {"one": "a", "two": "a"})
    assert placed.host_of == {"one": "b", "two": "a"}
    assert placed.waiting == {
        "two": "cannot leave a, which is draining: needs 0.3 device seconds per second, no host has more than 0.1 left"
    }


@pytest.mark.parametrize(
    ("hosts", "stream", "reason"),
    [
        ([], Stream("one", 0.1), "no host is up"),
        ([Host("a", 1.0, state="draining")], Stream("one", 0.1), "no host is up"),
        ([Host("a", 1.0)], Stream("one", 0.1, {"site": "north"}), "no host that is up has site: north"),
        (
            [Host("a", 1.0, {"site": "north"}), Host("b", 4.0)],
            Stream("one", 2.0, {"site": "north"}),
            "needs 2 device seconds per second, the largest host with site: north has 1",
        ),
    ],
)
def test_a_stream_without_a_host_has_the_reason(hosts: list[Host], stream: Stream, reason: str) -> None:
    assert place(hosts, [stream], {}).waiting == {"one": reason}


def test_10000_streams_survive_the_loss_of_ten_hosts() -> None:
    draw = random.Random(1)
    hosts = [Host(f"host{number:03}", 1.0, {"site": "ab"[number % 2]}) for number in range(200)]
    streams = [
        Stream(f"cam{number:05}", draw.uniform(0.002, 0.03), draw.choice([{}, {"site": "a"}, {"site": "b"}]))
        for number in range(10_000)
    ]
    first = place(hosts, streams, {})
    second = place(hosts[10:], streams, first.host_of)
    lost = {name for name, host in first.host_of.items() if host < "host010"}
    assert not first.waiting
    assert not second.waiting
    assert lost
    assert moved(first.host_of, second) == lost
    assert max(used(second, streams).values()) <= 1.0 + 1e-6
    third = place(
        [replace(host, state="draining") if host.name == "host100" else host for host in hosts], streams, second.host_of
    )
    assert "host100" not in third.host_of.values()
