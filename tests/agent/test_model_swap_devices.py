"""Swap of the model of an agent with two devices: all streams move, or all stay; a kill leaves one of both models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.bus.commands import Ask, ListModels, ListTasks, UseModelBefore
from tests.support.agents import is_alive, until
from tests.support.model_swap import START_S, STREAMS, Home, Running

OLD, NEW = {"infer:0", "infer:1"}, {"infer:0b", "infer:1b"}
"""Inference processes of the model of the config, and those of the first model after it."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"), STREAMS[:4], devices=2)


@pytest.fixture(scope="module")
def shared(home: Home) -> Iterator[Running]:
    with home.run() as running:
        yield running
        running.stop()


@pytest.fixture
def running(shared: Running) -> Iterator[Running]:
    """An agent that runs the model of its config on both devices, at the beginning and at the end of each test."""
    shared.forget_states()
    until(lambda: shared.processes() == OLD, START_S, "both processes run")
    yield shared
    shared.wait_until_over()
    assert not shared.call(ListModels())["used"]
    shared.wait_for_answers("faulty")


def test_both_devices_get_the_new_model(home: Home, running: Running) -> None:
    assert running.call(home.model("good"))["done"].startswith("good@")
    running.wait_for_states(("changed", "good"), ("kept", "good"))
    running.wait_until_over()
    assert running.processes() == NEW
    running.wait_for_answers("good@")
    assert set(running.call(ListTasks())["devices"].values()) == {"device 0", "device 1"}
    assert running.call(UseModelBefore(watch_s=1))["done"]
    running.wait_until_over()
    assert running.processes() == OLD


@pytest.mark.parametrize("phase", ["loading", "watched"])
def test_one_killed_new_process_gives_all_streams_back(home: Home, running: Running, phase: str) -> None:
    if phase == "loading":
        home.held.touch()
    running.send(home.model("good", loading=str(home.held), watch_s=600))
    until(lambda: running.processes() == OLD | NEW, START_S, "the new processes are started")
    if phase == "watched":
        assert running.answer()["done"]
        running.wait_for_answers("good@")
    running.agent.kill("infer:1b")
    if phase == "loading":
        assert "its process ended: killed by SIGKILL" in running.answer()["error"]
        running.wait_for_states(("refused", "good"))
        home.held.unlink()
    else:
        running.wait_for_states(("changed", "good"), ("returned", "good"))
    running.wait_for_answers("faulty")


def test_one_killed_old_process_does_not_end_the_swap(home: Home, running: Running) -> None:
    home.held.touch()
    running.send(home.model("good", loading=str(home.held)))
    until(lambda: running.processes() == OLD | NEW, START_S, "the new processes are started")
    running.agent.kill("infer:0")
    home.held.unlink()
    assert running.answer()["done"].startswith("good@")
    running.wait_for_states(("changed", "good"), ("kept", "good"))
    running.wait_until_over()
    assert running.processes() == NEW
    running.wait_for_answers("good@")
    assert running.call(UseModelBefore(watch_s=1))["done"]


def test_agent_killed_in_a_swap_begins_with_the_model_before(tmp_path: Path) -> None:
    home = Home(tmp_path, STREAMS[:2], devices=2)
    with home.run() as running:
        home.held.touch()
        running.send(home.model("good", loading=str(home.held)))
        until(lambda: running.processes() == OLD | NEW, START_S, "the new processes are started")
        children = running.agent.children().values()
        running.agent.process.kill()
        running.agent.process.wait()
        until(lambda: not any(map(is_alive, children)), START_S, "no process is left, also none that loads")
    with home.run() as running:
        running.wait_for_answers("faulty")
        assert running.processes() == OLD
        found = running.call(ListModels())
        assert (found["used"], found["given_up"], "swap" in found) == ([], [], False)
        running.stop()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_model_is_swapped_after_a_recording_has_ended(tmp_path: Path, devices: int) -> None:
    source = {"kind": "synthetic", "fps": 10, "size": "64x48", "pace": "file", "seconds": 1}
    clip = {"source": source, "tasks": [{"task": "caption", "every_n_frames": 1}]}
    home = Home(tmp_path, STREAMS[:2], devices, {"clip": clip})
    with home.run() as running:
        until(lambda: running.agent.statuses("stream.ended", "clip"), START_S, "the recording has ended")
        until(lambda: "capture:clip" not in running.agent.children(), START_S, "its process has ended, too")
        answer = running.call(Ask(stream="clip", task={"task": "caption"}, seconds=10))
        assert answer["error"] == "the stream `clip` does not run here: it has ended, or another host runs it"
        assert running.call(home.model("good"))["done"].startswith("good@")
        running.wait_for_states(("changed", "good"), ("kept", "good"))
        running.wait_until_over()
        running.wait_for_answers("good@")
        assert len(running.agent.results("clip")) == 10
        running.stop()
