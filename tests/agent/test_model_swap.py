"""Swap of the model with all processes of an agent: under load, refused, returned, killed in each phase."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.commands import ListModels, UseModelBefore
from tests.support.agents import until
from tests.support.model_swap import START_S, STREAMS, Home, Running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def shared(home: Home) -> Iterator[Running]:
    with home.run() as running:
        yield running
        running.stop()


@pytest.fixture
def running(shared: Running) -> Iterator[Running]:
    """An agent that runs the model of its config, at the beginning and at the end of each test."""
    shared.forget_states()
    yield shared
    shared.wait_until_over()
    if shared.call(ListModels())["used"]:
        assert shared.call(UseModelBefore(watch_s=1))["done"]
        shared.wait_until_over()
    assert not shared.call(ListModels())["used"]
    shared.wait_for_answers("faulty")


def test_a_model_is_swapped_and_kept(home: Home, running: Running) -> None:
    assert running.call(UseModelBefore())["error"].startswith("no other model was used before")
    assert running.call(home.model("good"))["done"].startswith("good@")
    running.wait_for_answers("good@")
    running.wait_for_states(("changed", "good"), ("kept", "good"))
    running.wait_until_over()
    assert "infer" not in running.agent.children(), "the first process has ended"
    found = running.call(ListModels())
    assert (found["config"], [one["name"] for one in found["used"]]) == (None, ["good"])
    assert "in use already" in running.call(home.model("good"))["error"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"missing": "."}, "no such checkpoint"),
        ({"fails": "."}, "its process ended: "),
        ({"poison": ".*"}, "its process ended: killed by SIGABRT"),
        ({"errors": "."}, "cannot run the task `caption` (caption) on a picture: no answer"),
        ({"bytes": 10**15}, "two models at once need 1000000.00 GB more memory"),
    ],
)
def test_a_bad_model_gets_no_stream(home: Home, running: Running, settings: dict[str, Any], reason: str) -> None:
    known = len(running.agent.results())
    answer = running.call(home.model("bad", **settings))
    assert answer["error"].startswith("bad@")
    assert " refused: " in answer["error"]
    assert reason in answer["error"]
    running.wait_for_states(("refused", "bad"))
    assert reason in running.call(ListModels())["given_up"][-1]["reason"]
    assert {event["data"]["model"] for event in running.agent.results()[known:]} <= {"faulty"}


def test_another_hash_is_refused(home: Home, running: Running) -> None:
    command = home.model("changed")
    answer = running.call(command.model_copy(update={"hash": "0" * 64}))
    assert "another hash" in answer["error"]
    running.wait_for_states(("refused", "changed"))


@pytest.mark.parametrize("kind", ["empty", "errors"])
def test_a_broken_model_is_given_up_by_itself(home: Home, running: Running, kind: str) -> None:
    broken = home.folder / "broken"
    settings = {"empty": True} if kind == "empty" else {"errors": str(broken)}
    assert running.call(home.model("broken", watch_s=600, **settings))["done"]
    broken.touch()
    running.wait_for_states(("changed", "broken"), ("returned", "broken"))
    broken.unlink()
    running.wait_for_answers("faulty")
    words = "were empty" if kind == "empty" else "failed"
    assert f"answers {words}, " in running.call(ListModels())["given_up"][-1]["reason"]


def test_a_swap_is_ended_by_hand(home: Home, running: Running) -> None:
    assert running.call(home.model("good", watch_s=600))["done"]
    assert "another swap is not over" in running.call(home.model("other"))["error"]
    assert running.call(ListModels())["swap"]["phase"] == "watched"
    assert running.call(UseModelBefore())["done"].startswith("the config's model")
    running.wait_for_states(("changed", "good"), ("returned", "good"))


@pytest.mark.parametrize("process", ["old", "new"])
@pytest.mark.parametrize("phase", ["loading", "watched"])
def test_a_kill_leaves_one_of_both_models(home: Home, running: Running, phase: str, process: str) -> None:
    (first,) = running.processes()
    command = home.model("good", loading=str(home.held), watch_s=1 if process == "old" else 600)
    if phase == "loading":
        home.held.touch()
        running.send(command)
        until(lambda: len(running.processes()) == 2, START_S, "the second process is started")
    else:
        assert running.call(command)["done"]
    killed = first if process == "old" else next(iter(running.processes() - {first}))
    if killed in running.agent.children():
        running.agent.kill(killed)
    if phase == "loading":
        home.held.unlink()
        running.answer()
    if process == "old":
        running.wait_for_answers("good@")
        running.wait_for_states(("changed", "good"), ("kept", "good"))
    else:
        running.wait_for_answers("faulty")
        state = [("refused", "good")] if phase == "loading" else [("changed", "good"), ("returned", "good")]
        running.wait_for_states(*state)


def test_the_choice_survives_the_death_of_the_agent(tmp_path: Path) -> None:
    home = Home(tmp_path, STREAMS[:1])
    with home.run() as running:
        assert running.call(home.model("good"))["done"]
        running.wait_for_states(("changed", "good"), ("kept", "good"))
        running.wait_until_over()
        assert running.call(home.model("later", watch_s=600, step=0.002))["done"]
        running.wait_for_answers("later@")
        running.agent.kill_all()
    with home.run() as running:  # the one that was kept, not the one that was watched
        running.wait_for_answers("good@")
        running.agent.kill_all()
    (tmp_path / "good.json").unlink()
    with home.run() as running:
        running.wait_for_answers("faulty")
        assert running.states()[-1] == ("returned", "good")
        assert not running.call(ListModels())["used"]
