"""Tasks with `changes` in a running agent: few results, every frame counted, nothing twice after a crash."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until

START_S = 240.0
CONFIG = """
agent: home
streams:
  gate:
    source: synthetic?seed=3&fps=10
    tasks:
      - {task: caption, every: 200ms, changes: true}
"""


def things(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["what"]: one["number"] for one in statements if "relation" not in one}


def test_changes_go_on_after_a_crash_of_inference(tmp_path: Path) -> None:
    config = tmp_path / "home.yaml"
    config.write_text(CONFIG)
    with RunningAgent(tmp_path / "agent", ["run", str(config)]) as agent:
        agent.wait_for_results(2, START_S)
        agent.kill("infer")
        count = len(agent.results())
        until(
            lambda: [one for one in agent.results()[count:] if "changes" in one["data"]],
            START_S,
            "answers after a crash",
        )
        agent.stop()
        events, frames = agent.results(), agent.statuses("stream.stopped")[-1]["data"]["frames"]

    assert_identity(frames)
    assert_no_duplicates(events)
    assert frames["dropped"]["unchanged"] > 0
    answers = [event["data"] for event in events if "changes" in event["data"]]
    assert [one["outcome"] for one in answers].count("ok") >= 2
    for before, after in pairwise(answers):
        known = things(before["changes"]["content"])
        appeared, disappeared = things(after["changes"]["appeared"]), things(after["changes"]["disappeared"])
        if after["outcome"] == "unchanged":
            assert after["changes"]["content"] == before["changes"]["content"]
        for what in known.keys() | appeared.keys() | disappeared.keys():
            number = known.get(what, 0) + appeared.get(what, 0) - disappeared.get(what, 0)
            assert things(after["changes"]["content"]).get(what, 0) == number
