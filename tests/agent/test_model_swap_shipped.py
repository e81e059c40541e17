"""Swap of the shipped small model for a changed copy of it, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until
from tests.support.checkpoints import changed_copy

START_S = 240.0


@pytest.mark.timeout(900)
def test_shipped_model_is_swapped_from_the_command_line(tmp_path: Path) -> None:
    config, folder = tmp_path / "home.yaml", changed_copy(tmp_path / "yard", 0.01)
    kinds = ("object_detection", "grounded_caption")  # one prompt, and several that must end in the model they began in
    tasks = [{"task": kind, "every": "500ms"} for kind in kinds]
    sinks = [{"kind": "jsonl", "path": str(tmp_path / "events.jsonl")}]
    streams = {"gate": {"source": "synthetic?fps=10", "tasks": tasks}}
    config.write_text(json.dumps({"agent": "home", "streams": streams, "sinks": sinks}))

    def command(*arguments: str) -> tuple[int, str]:
        """Return exit code and what was printed."""
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
        done = subprocess.run(
            [sys.executable, "-m", "streamer.cli", *arguments],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def models() -> set[str]:
        return {event["data"]["model"] for event in agent.results()}

    with RunningAgent(tmp_path, ["run", str(config)], tmp_path / "events.jsonl") as agent:
        agent.wait_for_results(2, START_S)
        code, text = command("model", "use", str(folder), "--hash", "0" * 12)
        assert (code, "checkpoint yard has the hash" in text) == (2, True)
        code, text = command("model", "use", str(tmp_path / "missing"))
        assert (code, "no such checkpoint folder" in text) == (2, True)
        assert models() == {"tiny"}
        code, text = command("model", "use", str(folder), "--watch", "1s")
        assert code == 0, text
        assert text.endswith("serves all streams; it is watched now\n")
        until(lambda: agent.statuses("model.kept"), START_S, "the new model is kept")
        (name,) = {event["data"]["model"] for event in agent.statuses("model.kept")}
        until(lambda: name in models(), START_S, "answers of the new model")
        assert name.startswith("yard@")
        code, text = command("model", "list")
        assert (code, f"{name}, {folder}, " in text) == (0, True)
        code, text = command("check", str(config))
        assert f"model in use: {name}, chosen with `streamer model use`" in text
        code, text = command("model", "back")
        assert (code, text) == (0, "the config's model (the shipped one) serves all streams; it is watched now\n")
        agent.stop(60)
        assert_no_duplicates(agent.events())
        assert_identity(agent.statuses("stream.stopped", "gate")[-1]["data"]["frames"])
