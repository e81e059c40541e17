"""Questions and task changes from the command line, with all processes of a running agent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.bus.rpc import Message, RpcClient, control_socket
from streamer.cli.main import app
from streamer.config.changes import Change, SavedChanges
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until

CONFIG = """
agent: home
streams:
  gate:
    source: synthetic?seed=3&fps=10
    tasks:
      - {task: caption, every: 500ms}  # a comment of the user
sinks: [{kind: jsonl, path: events.jsonl}]
"""


class Home:
    """A folder with a config, in which agents and commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "home.yaml"
        self.config.write_text(CONFIG.replace("events.jsonl", str(folder / "events.jsonl")))
        self._environment = faulty.install(folder / "installed")

    def run(self) -> RunningAgent:
        return RunningAgent(self.folder, ["run", str(self.config)], self.folder / "events.jsonl", self._environment)

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run `streamer …`; return exit code, standard output and standard error."""
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state")}
        done = subprocess.run(
            [sys.executable, "-m", "streamer.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        return done.returncode, done.stdout, done.stderr


def count_results(agent: RunningAgent, name: str) -> int:
    """Return the number of results of a task."""
    return sum(event["subject"] == name for event in agent.results())


def test_commands_ask_and_change_a_running_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert home.command("ask", "gate", "a red circle")[0] == 2
    with home.run() as agent:
        agent.wait_for_results(1, 60)
        code, output, errors = home.command("ask", "gate", "a red circle", "--json")
        assert (code, errors) == (0, "")
        event = json.loads(output)
        assert (event["data"]["text"], event["data"]["task"]) == ("a red circle", "open_vocabulary_detection")
        code, output, _ = home.command("ask", "gate", "a red circle and a blue ring", "--explain", "--json")
        assert (code, json.loads(output)["data"]["text"]) == (0, "a red circle and a blue ring")
        code, output, _ = home.command("ask", "gate", "--task", "caption")
        assert (code, output.count("\n")) == (0, 1)
        message = "there is no stream `gat` (did you mean `gate`?)"
        assert home.command("ask", "gat", "x") == (2, "", f"streamer: {message}\n")
        for words, message in (
            (("ask", "gate", "x", "--task", "caption"), "text: caption takes no text"),
            (("ask", "gate", "--task", "caption", "--confirm"), "confirm: caption takes no confirm"),
            (("ask", "gate", "--task", "phrase_grounding"), "`text` is missing: phrase_grounding needs it"),
            (("ask", "gate"), "nothing to ask: give TEXT or --task"),
            (("ask", "gate", "x", "--agent", "office"), "agent office is not running"),
            (("task", "add", "gate", "caption"), "gate has a task `caption` already: give this one another --name"),
            (("task", "pause", "gate", "captoin"), "gate has no task `captoin` (did you mean `caption`?)"),
            (("task", "remove", "gate", "caption"), "`caption` is the only task of gate: pause it"),
        ):
            with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
                app(words, standalone_mode=False)
        assert count_results(agent, "ask") == 0
        rogue = RpcClient(control_socket(tmp_path / "run" / "streamer" / "home"))
        for garbage in ({"op": "ask"}, {"op": "ask", "task": {}, "seconds": "soon"}, {"op": "add", "task": 7}):
            rogue.send(stream="gate", name="x", **garbage)
            assert until(rogue.receive, 10, "an error reply")[0]["error"].startswith("malformed request (")
        for seconds in (0, -1, 601, float("nan")):
            rogue.send(op="ask", stream="gate", task={"task": "caption"}, seconds=seconds)
            (reply,) = until(rogue.receive, 10, "an error reply")
            assert reply["error"] == f"cannot wait {seconds:g} s for an answer: give 0.1 to 600 s"
        for order, reason in (
            ({"op": "add", "name": "x", "task": {"task": "caption", "name": "y"}}, "malformed request ("),
            ({"op": "add", "name": "x" * 65, "task": {"task": "caption"}}, "malformed request ("),
            ({"op": "pause", "name": "caption", "task": [[]]}, "malformed request ("),
            ({"op": "ask", "task": {"task": "caption", "zone": {"x": "[" * 900}}, "seconds": 1e300}, "cannot wait"),
        ):
            rogue.send(stream="gate", **order)
            assert until(rogue.receive, 10, "an error reply")[0]["error"].startswith(reason)
        for _ in range(70):
            rogue.send(op="ask", stream="gate", task={"task": "caption"}, seconds=60)
        answers = list[Message]()

        def all_are_answered() -> bool:
            answers.extend(rogue.receive())
            return len(answers) >= 70

        until(all_are_answered, 30, "all are answered")
        assert any("64 questions wait for an answer already" in answer.get("error", "") for answer in answers)
        rogue.close()

        added = home.command(
            "task", "add", "gate", "object_detection", "--name", "things", "--every", "300ms", "--save"
        )
        assert added == (0, "things of gate: added, saved\n", "")
        until(lambda: count_results(agent, "things") >= 2, 10, "its results")
        assert home.command("task", "pause", "gate", "caption")[0] == 0
        infer = agent.kill("infer")
        until(lambda: agent.children().get("infer") not in (None, infer), 20, "another inference process")
        before = count_results(agent, "things"), count_results(agent, "caption")
        until(lambda: count_results(agent, "things") >= before[0] + 3, 30, "the added task after the kill")
        assert count_results(agent, "caption") == before[1], "it is still paused"
        added_events = [(event["subject"], event["data"]["task"]) for event in agent.statuses("task.added", "gate")]
        assert added_events == [("task.added", "things")]
        assert agent.statuses("task.paused", "gate")
        agent.stop()
        assert_no_duplicates(agent.events())
        assert_identity(agent.statuses("stream.stopped")[-1]["data"]["frames"])
        assert "a comment of the user" in home.config.read_text()
    with home.run() as agent:
        before = count_results(agent, "things"), count_results(agent, "caption")
        until(lambda: count_results(agent, "things") > before[0], 60, "the saved task")
        until(lambda: count_results(agent, "caption") > before[1], 10, "the task whose pause was not saved")


def test_saved_change_replaces_those_it_cancels(tmp_path: Path) -> None:
    saved = SavedChanges(tmp_path)
    add = Change("add", "gate", "x", {"task": "ocr", "name": "x"})
    for change in (add, Change("pause", "gate", "x"), Change("resume", "gate", "x"), Change("pause", "gate", "y")):
        saved.add(change)
    assert saved.load() == [add, Change("resume", "gate", "x"), Change("pause", "gate", "y")]
    saved.add(Change("remove", "gate", "x"))
    assert saved.load() == [Change("pause", "gate", "y")]


def test_saved_change_that_no_longer_fits_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = SavedChanges(tmp_path)
    saved.add(Change("remove", "gate", "gone"))
    saved.add(Change("add", "gate", "x", {"task": "ocr", "name": "x"}))
    config = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}})
    assert [task.name for task in saved.apply(config).streams["gate"].tasks] == ["caption", "x"]
    assert "gate has no task `gone`" in caplog.text
