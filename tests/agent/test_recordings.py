"""Whole agents that read recordings to their end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity
from tests.support.clips import cut, write_clip, write_recording

START_S = 200.0


@pytest.mark.parametrize("strict", [False, True])
def test_recording_that_ends_early_fails_a_strict_agent(tmp_path: Path, strict: bool) -> None:
    half = cut(write_recording(tmp_path / "half.mp4", movflags="+faststart"))
    whole = write_clip(tmp_path / "whole.mp4", 50)
    tasks = [{"task": "caption", "every": "1s"}]
    streams = {
        "half": {"source": {"kind": "file", "path": str(half), "strict": strict}, "tasks": tasks},
        "whole": {"source": {"kind": "file", "path": str(whole), "strict": True}, "tasks": tasks},
    }
    file = faulty.config(tmp_path, streams, {})
    environment = faulty.install(tmp_path / "installed")
    with RunningAgent(tmp_path / "agent", ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
        assert agent.process.wait(START_S) == int(strict), agent.log()
        ends = {event["data"]["stream"]: event["data"] for event in agent.statuses("stream.ended")}
        assert len(agent.statuses("stream.ended")) == 2
        assert ends["whole"]["reason"] is None
        assert re.fullmatch(r"ends early: [23]\.\d s of 6\.0 s", ends["half"]["reason"])
        for stream, answers in (("half", 3), ("whole", 2)):
            assert_identity(ends[stream]["frames"])
            assert len(agent.results(stream)) == answers
            assert len({event["data"]["epoch"] for event in agent.results(stream)}) == 1, "read once"
        last = agent.log().splitlines()[-1]
        assert last.startswith("streamer: stream half ends early: ") if strict else "streamer:" not in last
