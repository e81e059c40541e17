"""The decision which streams an agent runs: order of commands, leases. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.bus.commands import RunStreams
from streamer.core.errors import ConfigError
from streamer.processes.wanted_streams import WantedStreams

NAMES = ("gate", "yard", "roof")


def command(*names: str, **keys: Any) -> RunStreams:
    return RunStreams(names=list(names), by="boxa", **keys)


def test_agent_begins_with_all_streams_or_those_it_is_given() -> None:
    assert list(WantedStreams(NAMES).leases) == list(NAMES)
    assert list(WantedStreams(NAMES, {"roof", "gate"}).leases) == ["gate", "roof"]
    assert not WantedStreams(NAMES, ()).leases


def test_command_is_idempotent_and_late_ones_are_refused() -> None:
    wanted = WantedStreams(NAMES, ())
    assert wanted.take(command("gate", epoch=5), 0.0)
    assert not wanted.take(command("gate", epoch=5), 1.0)
    assert wanted.take(command("gate", "yard", epoch=6), 2.0)
    for late in ({"epoch": 5}, {}):
        with pytest.raises(ConfigError, match="the command is late"):
            wanted.take(command(**late), 3.0)
    assert wanted.leases == {"gate": 5, "yard": 6}, "each has the epoch with which it came"
    wanted.present.update(("gate", "yard"))
    wanted.take(command("yard", epoch=7), 4.0)
    assert wanted.describe(4.0).model_dump() == {
        "running": ["yard"], "leaving": ["gate"], "epoch": 7, "lease_left_s": None,
    }  # fmt: skip


def test_lease_ends_unless_it_is_renewed() -> None:
    wanted = WantedStreams(NAMES, ())
    wanted.take(command("gate", epoch=1, lease_s=10), 100.0)
    assert not wanted.expire(109.9)
    assert not wanted.take(command("gate", epoch=1, lease_s=10), 109.0)
    assert wanted.describe(110.0).lease_left_s == 9.0
    assert not wanted.expire(118.9)
    assert wanted.expire(119.0)
    assert not wanted.leases
    assert not wanted.expire(200.0), "reported once"
    assert wanted.take(command("gate", epoch=1, lease_s=10), 201.0), "the same decision is granted again"
    assert wanted.leases == {"gate": 1}


def test_command_that_was_queued_too_long_renews_nothing() -> None:
    wanted = WantedStreams(NAMES, ())
    wanted.take(command("gate", epoch=1, lease_s=10, since=100.0), 104.0)
    assert wanted.describe(104.0).lease_left_s == 6.0, "it counts from the grant, not from the arrival"
    with pytest.raises(ConfigError, match="is over already"):
        wanted.take(command("gate", epoch=1, lease_s=10, since=90.0), 105.0)
    wanted.take(command("gate", epoch=1, lease_s=10, since=500.0), 106.0)
    assert wanted.describe(106.0).lease_left_s == 10.0, "a grant in the future counts from now"
