"""Another program deletes, cuts or replaces the files of a running agent; the agent makes them anew."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from streamer.bus.rpc import RpcClient, control_socket
from streamer.core.errors import ConfigError
from streamer.core.paths import find_running
from tests.support import faulty
from tests.support.agents import RunningAgent, until

START_S = 100.0
CAMERA = {"source": "synthetic?fps=10", "tasks": [{"task": "caption", "every": "200ms"}]}


def test_cut_buffers_and_deleted_sockets_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = faulty.config(tmp_path, {"gate": CAMERA}, {})
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", faulty.install(tmp_path / "p")) as agent:
        agent.wait_for_results(3, START_S)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        _, runtime = find_running(None)
        for buffer in (runtime / "buffers").glob("*.buf"):
            os.truncate(buffer, 0)
        for socket in runtime.glob("*.sock"):
            socket.unlink()
        known = len(agent.results())
        agent.wait_for_results(known + 10, 30)
        until(lambda: control_socket(runtime).exists(), 10, "the socket for commands")
        client = RpcClient(control_socket(runtime))
        client.send(op="ask", stream="gate", task={"task": "caption"}, seconds=60)
        (answer,) = until(client.receive, 25, "an answer")
        client.close()
        assert answer["event"]["data"]["outcome"] == "ok"
        shutil.rmtree(runtime)  # as when its user logs out
        until(lambda: control_socket(runtime).exists(), 10, "the folder is made again")
        until(lambda: (runtime / "frames-gate.sock").exists(), 40, "another capture process may write in it")
        agent.kill("infer")  # the next one connects to the sockets that were made again
        known = len(agent.results())
        agent.wait_for_results(known + 3, START_S)
        agent.stop()
    with pytest.raises(ConfigError, match="no agent is running"):
        find_running(None)
