"""Two hosts of a cluster, with real sockets and CURVE between them and a stand-in for the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from streamer.bus.host_keys import HostKeys
from streamer.cluster import host
from streamer.cluster.controller import provisional_s
from streamer.cluster.host import STATE_FILE, HostProcess, clock
from streamer.cluster.peers import Peers
from streamer.config.cluster import Cluster
from streamer.core.errors import ConfigError
from tests.cluster.hosts import ALONE, FakeAgent, RunningHost
from tests.support.agents import until
from tests.support.ports import free_port


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    hosts = {"a": {"address": "127.0.0.1"}, "b": {"address": "127.0.0.2"}}
    keys = {name: HostKeys(tmp_path / f"{name}.keys") for name in hosts}
    pairs = {name: keys[name].create() for name in hosts}
    keys["a"].allow("b", pairs["b"].public.hex())
    keys["b"].allow("a", pairs["a"].public.hex())
    return Cluster.model_validate({"hosts": hosts, "port": free_port(), "lease": "3s"})


@contextmanager
def both(folder: Path, cluster: Cluster) -> Iterator[tuple[RunningHost, RunningHost]]:
    with ExitStack() as stack:
        a, b = (stack.enter_context(RunningHost(folder, name, cluster)) for name in "ab")
        until(lambda: b.report()["has_lease"], 60, "the lease of b")
        yield a, b


def test_streams_run_while_hosts_see_each_other(tmp_path: Path, cluster: Cluster) -> None:
    with both(tmp_path, cluster) as (_, b):
        assert b.call(op="order", epoch=1, streams=["gate"])["done"]
        until(lambda: b.agent.runs == {"gate"}, 60, "the stream")
        until(lambda: 0 < (b.agent.until or 0.0) - clock() <= 3, 60, "until the end of the lease")
        assert b.report()["order"] == {"epoch": 1, "streams": ["gate"], "provisional": {}, "is_draining": False}


def test_a_lonely_host_stops_its_streams(tmp_path: Path, cluster: Cluster) -> None:
    with ExitStack() as stack:
        a = stack.enter_context(RunningHost(tmp_path, "a", cluster))
        with RunningHost(tmp_path, "b", cluster) as b:
            until(lambda: b.report()["has_lease"], 60, "the lease of b")
            a.call(op="order", epoch=1, streams=["gate"])
            until(lambda: a.agent.runs, 60, "the stream")
        assert a.report()["has_lease"]  # half of the hosts, with the first one


def test_a_barred_host_loses_its_lease_until_a_new_order(tmp_path: Path, cluster: Cluster) -> None:
    with both(tmp_path, cluster) as (a, b):
        b.call(op="order", epoch=1, streams=["gate"])
        until(lambda: b.agent.runs, 60, "the stream")
        claimed = a.call(op="claim", epoch=2, barred=["b"])["claimed"]
        assert claimed["accepted"]
        assert 0 < claimed["votes"]["b"] <= 3 * 1.02
        until(lambda: not b.agent.runs, 60, "the end of the lease")
        until(lambda: not b.report()["has_lease"], 60, "the end of the lease")
        b.call(op="order", epoch=2, streams=["gate"])
        until(lambda: b.agent.runs, 60, "the stream again")


def test_an_order_of_an_old_controller_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    with both(tmp_path, cluster) as (a, _):
        a.call(op="claim", epoch=5, barred=[])
        assert "epoch 4" in a.call(op="order", epoch=4, streams=["gate"])["error"]
        assert not a.report()["order"]["streams"]


def test_promises_and_order_outlive_a_restart(tmp_path: Path, cluster: Cluster) -> None:
    with both(tmp_path, cluster) as (a, b):
        a.call(op="claim", epoch=3, barred=["b"])
        a.call(op="order", epoch=3, streams=["gate"])
        with pytest.raises(ConfigError, match="runs already"):
            HostProcess("a", cluster, "mark", 1.0, a.folder, a.agent, HostKeys(tmp_path / "a.keys"))
        b.call(op="order", epoch=3, streams=["yard"], is_draining=True)
    with both(tmp_path, cluster) as (a, b):
        assert a.report()["claimed"] == 3
        assert [host.report()["order"]["is_draining"] for host in (a, b)] == [False, True]
        until(lambda: a.agent.runs == {"gate"} and b.agent.runs == {"yard"}, 60, "the streams again")


def test_a_provisional_stream_ends_unless_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "provisional_s", lambda lease_s: 300.0)
    passed = [0.0]
    monkeypatch.setattr(host, "clock", lambda: clock() + passed[0])
    with RunningHost(tmp_path, "a", ALONE) as a:
        a.call(op="order", epoch=1, streams=["gate", "yard", "door"], provisional={"yard": "b", "door": "b"})
        assert 200 < a.report()["left"]["yard"] <= 300
        a.call(op="order", epoch=2, streams=["gate", "yard", "door"], provisional={"door": "b"})
        passed[0] = 300.0
        until(lambda: a.agent.runs == {"gate", "yard"}, 60, "the end of the stream")
        order = a.report()["order"]
        assert (order["epoch"], sorted(order["streams"]), order["provisional"]) == (2, ["gate", "yard"], {})
        assert not a.report()["left"]


def test_a_move_ends_without_controller(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new host keeps a stream when the old one has given it up, also over a restart."""
    monkeypatch.setattr(host, "provisional_s", lambda lease_s: 300.0)
    with both(tmp_path, cluster) as (a, b):
        streams = ["gate", "yard", "door"]
        a.call(op="order", epoch=1, streams=streams)
        b.call(op="order", epoch=2, streams=streams, provisional=dict.fromkeys(streams, "a"))
        a.agent.leaving = frozenset({"yard"})
        a.call(op="order", epoch=3, streams=["door"])
        until(lambda: "gate" not in b.report()["left"], 30, "the confirmation")
        report = b.report()
        assert report["order"]["provisional"] == {"yard": "a", "door": "a"}
        assert sorted(report["order"]["streams"]) == sorted(streams)
        a.agent.leaving = frozenset()
        until(lambda: b.report()["order"]["provisional"] == {"door": "a"}, 30, "the other one")
        assert set(b.report()["left"]) == {"door"}
    with RunningHost(tmp_path, "b", cluster) as b:
        assert sorted(b.report()["order"]["streams"]) == ["gate", "yard"]


def test_a_restart_gives_up_provisional_streams(tmp_path: Path) -> None:
    with RunningHost(tmp_path, "a", ALONE) as a:
        a.call(op="order", epoch=1, streams=["gate", "yard"], provisional={"yard": "b"})
        until(lambda: a.agent.runs == {"gate", "yard"}, 60, "both streams")
    with RunningHost(tmp_path, "a", ALONE) as a:
        assert a.report()["order"]["streams"] == ["gate"]


def test_repeated_orders_do_not_extend_a_move(tmp_path: Path) -> None:
    with RunningHost(tmp_path, "a", ALONE) as a:
        a.call(op="order", epoch=1, streams=["gate"], provisional={"gate": "b"})
        before = a.report()["left"]["gate"]
        a.call(op="order", epoch=2, streams=["gate", "yard"], provisional={"gate": "b", "yard": "b"})
        left = a.report()["left"]
        assert left["gate"] < before < provisional_s(3)
        assert left["gate"] < left["yard"]


def test_one_host_needs_no_key(tmp_path: Path) -> None:
    with RunningHost(tmp_path, "a", ALONE) as a:
        a.call(op="order", epoch=1, streams=["gate"])
        until(lambda: a.agent.runs == {"gate"}, 60, "the stream")


def test_not_exclusive_streams_need_no_lease(tmp_path: Path, cluster: Cluster) -> None:
    open_ended = cluster.model_copy(update={"exclusive": False})
    with RunningHost(tmp_path, "b", open_ended) as b:
        b.call(op="order", epoch=1, streams=["gate"])
        until(lambda: b.agent.runs == {"gate"}, 60, "the stream")
        assert b.agent.until is None
        assert not b.report()["has_lease"]


def test_missing_and_damaged_files_are_named(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / STATE_FILE).write_text(json.dumps({"promises": "many"}))
    with pytest.raises(ConfigError, match=rf"{STATE_FILE} cannot be read"):
        HostProcess("a", cluster, "mark", 1.0, tmp_path / "a", FakeAgent(), HostKeys(tmp_path / "a.keys"))
    with pytest.raises(ConfigError, match="streamer keys allow b KEY"):
        Peers(HostKeys(tmp_path / "none"), "a", {"a": "127.0.0.1", "b": "127.0.0.2"}, cluster.port)
