"""Merged answers of several hosts: which host a stream belongs to, positions of events, sums, and notes."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.web.hosts.merge import (
    merge_events,
    merge_incidents,
    merge_rules,
    merge_rules_state,
    merge_streams,
    read_positions,
)


def state(position: int = 0, open_incidents: int = 0, **states: str) -> dict[str, Any]:
    streams = [{"name": name, "state": one, "reason": None, "device": "cuda:0"} for name, one in states.items()]
    devices = [{"name": "cuda:0", "state": "up", "reason": None}]
    rules = {"count": 1, "open": open_incidents}
    return {"agent": "x", "position": position, "devices": devices, "streams": streams, "rules": rules}


def hosts_of(merged: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    return {one["name"]: (one["host"], one["state"]) for one in merged["streams"]}


def test_each_stream_is_shown_at_the_host_that_runs_it() -> None:
    merged = merge_streams(
        {"a": state(5, 1, gate="live", yard="elsewhere"), "b": state(7, 2, gate="elsewhere", yard="down")}, {}, {}
    )
    assert hosts_of(merged) == {"gate": ("a", "live"), "yard": ("b", "down")}
    assert (merged["position"], merged["rules"]) == ("a:5,b:7", {"count": 1, "open": 3})
    assert [one["name"] for one in merged["devices"]] == ["a cuda:0", "b cuda:0"]
    assert [one["device"] for one in merged["streams"]] == ["a cuda:0", "b cuda:0"]


def test_moving_stream_keeps_its_host_until_that_gives_it_up() -> None:
    both = {"a": state(gate="live"), "b": state(gate="live")}
    for before in "ab":
        assert hosts_of(merge_streams(both, {}, {"gate": before})) == {"gate": (before, "live")}
    starting = {"a": state(gate="starting"), "b": state(gate="live")}
    assert hosts_of(merge_streams(starting, {}, {"gate": "a"})) == {"gate": ("b", "live")}


def test_stream_without_a_host_in_reach_says_why() -> None:
    (alone,) = merge_streams({"a": state(gate="elsewhere")}, {"b": "the connection broke off"}, {"gate": "b"})[
        "streams"
    ]
    assert (alone["host"], alone["state"]) == (None, "unreachable")
    assert "not reached: b (the connection broke off)" in alone["reason"]
    (alone,) = merge_streams({"a": state(gate="elsewhere"), "b": state(gate="elsewhere")}, {}, {})["streams"]
    assert (alone["host"], alone["state"], alone["reason"]) == (None, "elsewhere", "no host runs the stream")


def page(*events: tuple[int, str], position: int, note: str | None = None) -> dict[str, Any]:
    return {"position": position, "note": note, "events": [{"position": at, "event": {"time": t}} for at, t in events]}


A, B = page((1, "10:00"), (2, "10:05"), position=2), page((8, "10:01"), (9, "10:02"), position=9)


def places(merged: dict[str, Any]) -> list[str]:
    return [f"{one['host']}{one['position']}" for one in merged["events"]]


def test_newest_events_are_merged_by_time() -> None:
    merged = merge_events({"a": A, "b": B}, {}, None, 3)
    assert (places(merged), merged["position"], merged["note"]) == (["b8", "b9", "a2"], "a:2,b:9", None)


def test_paging_misses_and_repeats_nothing() -> None:
    """The page ends at its limit; the next one begins after the last event of each host that it had."""
    merged = merge_events({"a": A, "b": B}, {}, {"a": 0, "b": 7}, 2)
    assert (places(merged), merged["position"]) == (["a1", "b8"], "a:1,b:8")
    rest = merge_events(
        {"a": page((2, "10:05"), position=2), "b": page((9, "10:02"), position=9)}, {}, {"a": 1, "b": 8}, 2
    )
    assert (places(rest), rest["position"]) == (["b9", "a2"], "a:2,b:9")


def test_host_without_an_answer_keeps_its_position() -> None:
    merged = merge_events({"a": A}, {"b": "no connection"}, {"a": 0, "b": 7}, 10)
    assert read_positions(merged["position"]) == {"a": 2, "b": 7}
    assert merged["note"] == "not reached: b (no connection)"


@pytest.mark.parametrize("text", ["", "17", "a:", "a:1,", "a:1;b:2", "a:-1", "a:1234567890123456"])
def test_positions_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        read_positions(text)


def test_incidents_name_their_host() -> None:
    one, other = {"started": "2026-01-01T10:00:00Z"}, {"started": "2026-01-01T11:00:00Z"}
    found = {"a": {"complete": True, "count": 1, "incidents": [one]}}
    found["b"] = {"complete": True, "count": 1, "incidents": [other]}
    merged = merge_incidents(found, {}, 1)
    assert (merged["count"], merged["complete"], merged["incidents"]) == (2, True, [{**other, "host": "b"}])


def test_rules_have_sums_and_different_modes_a_note() -> None:
    def rules(mode: str, right: int, last: str | None) -> dict[str, Any]:
        counted = {"right": right, "wrong": 1, "share": None}
        rule = {"name": "visitor", "open": 1, "last": last, "precision": counted, "precision_ever": counted}
        snooze = {"rule": "visitor", "stream": None, "until": "2026-01-01T10:00:00.12Z"}
        return {"modes": ["home", "away"], "mode": mode, "snoozes": [snooze], "rules": [rule], "incidents": []}

    found = {"a": rules("home", 2, None), "b": rules("away", 0, "2026-01-01T10:00:00Z")}
    merged = merge_rules(found, {})
    (rule,) = merged["rules"]
    assert (rule["open"], rule["last"]) == (2, "2026-01-01T10:00:00Z")
    assert rule["precision"] == {"right": 2, "wrong": 2, "share": 0.5}
    assert len(merged["snoozes"]) == 1
    note = "the mode differs: a home, b away; switch it again"
    assert merged["note"] == merge_rules_state(found, {})["note"] == note
