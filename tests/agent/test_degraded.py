"""An agent whose model does not run as configured: it says so, and works."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

import streamer
from tests.support import faulty
from tests.support.agents import RunningAgent, until
from tests.support.checkpoints import build_checkpoint

START_S = 100.0
CRASH = """
import os, sys
if any(word.endswith("openvino.trial_process") for word in sys.orig_argv):
    os.abort()
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")
def test_crash_of_openvino_is_reported_and_torch_answers(tmp_path: Path) -> None:
    checkpoint = build_checkpoint(tmp_path / "small", scale=2)
    (tmp_path / "sitecustomize.py").write_text(CRASH)  # which Python imports at its start
    camera = {"source": "synthetic?fps=5&size=160x120", "tasks": [{"task": "caption", "every": "200ms"}]}
    socket = f"ipc://{tmp_path}/bus.sock"
    sinks = [{"kind": "zmq", "endpoint": socket}, {"kind": "stdout"}]
    model = {"checkpoint": str(checkpoint), "device": "cpu", "backend": "openvino"}
    file = faulty.config(tmp_path, {"gate": camera}, model, sinks=sinks)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path / "cache"), "CACHE_DIRECTORY": ""}
    with RunningAgent(tmp_path, ["run", str(file)], None, environment) as agent:
        agent.wait_for_results(2, START_S)
        events = streamer.subscribe(socket, timeout=START_S, after={"/agents/home": 0})
        degraded = next(event for event in events if event.subject == "agent.degraded")
        assert isinstance(degraded, streamer.StatusEvent)
        reason = degraded.data.reason
        assert reason == "OpenVINO on CPU is not used: its trial crashed (SIGABRT); torch runs the whole model"
        killed = agent.kill("infer")
        (verdict,) = (tmp_path / "cache" / "streamer" / "openvino").iterdir()
        second = until(lambda: agent.statuses("agent.degraded")[1:], START_S, f"a second report; {agent.log()}")
        assert f"its trial crashed (SIGABRT); delete {verdict} to try again" in second[0]["data"]["reason"]
        agent.wait_for_results(len(agent.results()) + 1, START_S)
        assert agent.children()["infer"] != killed
        assert agent.log().count("output of the failed trial") == 1
        agent.stop()
