"""Start and stop of a host by its proxy, also of one that is just starting."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.bus.host_keys import HostKeys
from streamer.cluster import proxy
from streamer.cluster.host import HostProcess, host_folder
from streamer.cluster.proxy import Proxy
from tests.cluster.hosts import ALONE, FakeAgent, RunningHost
from tests.support.agents import until


def test_stop_leaves_no_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    at, link = host_folder("home-a"), Proxy("home", "a", "missing.yaml")
    with RunningHost(tmp_path, "a", ALONE, at) as a:
        a.call(op="order", epoch=1, streams=["gate"])
        until(lambda: link.call({"op": "stop"}).get("done"), 60, "the end")
        assert a.agent.stopped
    with RunningHost(tmp_path, "a", ALONE, at) as a:
        assert a.report()["order"] == {"epoch": 1, "streams": [], "provisional": {}, "is_draining": False}


def test_a_host_that_is_starting_is_not_stopped_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(proxy, "HOST_S", 0.1)
    link = Proxy("home", "a", str(tmp_path / "missing.yaml"))
    assert "done" in link.call({"op": "stop"})
    assert "failed" in link.call({"op": "report"})  # starts it
    assert "failed" in link.call({"op": "stop"})
    link._start_at -= proxy.START_S
    until(lambda: link.call({"op": "stop"}).get("done"), 60, "it never came")


def test_a_host_that_is_busy_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(proxy, "HOST_S", 0.1)
    at, link = host_folder("home-a"), Proxy("home", "a", str(tmp_path / "missing.yaml"))
    with HostProcess("a", ALONE, "mark", 1.0, at, FakeAgent(), HostKeys(tmp_path / "keys")):
        assert "failed" in link.call({"op": "report"})
        assert not (at / "host.log").exists()
    assert "failed" in link.call({"op": "report"})
    assert (at / "host.log").exists()
