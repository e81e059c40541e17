"""Devices of an agent that has several, as the page shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.result_feed import ResultPublisher
from streamer.events.build import worker_event
from streamer.events.ledger import Ledger
from streamer.events.schema import StatusEvent
from streamer.web.monitor.devices import Devices
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.web_process import CONFIG, WebProcess

NAMES = {"0": "cuda:0", "1": "cuda:1"}


def event(state: str, reason: str | None = None) -> dict[str, Any]:
    return worker_event("home", "infer:1", state, reason).model_dump(mode="json")


def test_device_is_restarting_until_its_process_is_up_again() -> None:
    devices = Devices(NAMES)
    starting = {"name": "cuda:0", "state": "starting", "reason": None}
    assert devices.states({}) == [starting, {**starting, "name": "cuda:1"}]
    devices.on_up("1")
    assert devices.states({}) == [starting, {"name": "cuda:1", "state": "up", "reason": None}]
    lost: dict[str | None, Any] = {"1": event("restarted", "killed by SIGKILL")}
    restarting = {"name": "cuda:1", "state": "restarting", "reason": "killed by SIGKILL"}
    assert devices.states(lost) == [starting, restarting]
    devices.on_up("1")
    assert devices.states(lost)[1]["state"] == "up"
    assert devices.states({"1": event("degraded", "too often")})[1]["reason"] == "too often"
    assert devices.states({"1": event("recovered")})[1]["state"] == "up"


def test_stream_has_the_device_of_its_process() -> None:
    devices = Devices(NAMES)
    assert devices.of("gate") is None
    devices.on_stream("gate", "1")
    assert devices.of("gate") == "cuda:1"
    alone = Devices({})
    alone.on_stream("gate", None)
    assert (alone.of("gate"), alone.states({})) == (None, [])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


@pytest.mark.parametrize("target", ["1", "1b"])
def test_page_data_follow_processes_and_events(tmp_path: Path, ledger: Ledger, target: str) -> None:
    """`1b` is the process that a swap of the model has started."""
    tasks = CONFIG["streams"][STREAM]["tasks"]
    first, second = ResultPublisher(tmp_path, {}, "0"), ResultPublisher(tmp_path, {STREAM: tasks}, target)
    with WebProcess(tmp_path, devices=NAMES) as web:

        def shown() -> tuple[list[str], str | None]:
            for publisher in (first, second):
                publisher.greet_subscribers()
            found = web.get("/api/streams").json()
            (device,) = [stream["device"] for stream in found["streams"] if stream["name"] == STREAM]
            return [one["state"] for one in found["devices"]], device

        until(lambda: shown() == (["up", "up"], "cuda:1"), 10, "both are up")
        lost: StatusEvent = worker_event("test", f"infer:{target}", "restarted", "killed by SIGKILL")
        ledger.commit([lost])
        first.publish_tasks(STREAM, tasks)
        until(lambda: shown() == (["up", "restarting"], "cuda:0"), 10, "the stream has moved")
    for publisher in (first, second):
        publisher.close()
