"""Graphs that give wrong tokens: the agent says so in an event, and runs without them."""

from __future__ import annotations

from pathlib import Path

from tests.support import faulty
from tests.support.agents import RunningAgent

START_S = 240.0
"""Seconds to load torch and the model, and to run the trials, on a busy machine."""
STREAMS = {"gate": {"source": "synthetic?fps=25&size=320x240", "tasks": [{"task": "caption", "every": "50ms"}]}}


def test_agent_with_wrong_graphs_runs_without_them(tmp_path: Path) -> None:
    environment = faulty.install(tmp_path / "installed", "tests.support.graph_faults:wrong_tokens")
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    file = faulty.config(tmp_path, STREAMS, {"device": "cpu", "max_batch": 1})
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
        agent.wait_for_results(3, START_S, "gate")
        (event,) = agent.statuses("agent.degraded")
        assert event["data"]["reason"].startswith("graphs gave other tokens in ")
        assert {event["data"]["outcome"] for event in agent.results()} == {"ok"}
