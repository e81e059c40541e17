"""Questions that kill the inference process, in a whole agent."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from streamer.inference.quarantine import PAUSE_S
from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, assert_no_holes, until
from tests.support.clips import write_clip

START_S = 100.0


def run_faulty(folder: Path, streams: dict[str, Any], **model: Any) -> RunningAgent:
    file = faulty.config(folder, streams, model)
    environment = faulty.install(folder / "installed")
    return RunningAgent(folder, ["run", str(file)], folder / "events.jsonl", environment)


def test_guilty_task_of_eight_is_paused_and_others_go_on(tmp_path: Path) -> None:
    names = ("caption", "detailed_caption", "object_detection", "ocr")
    camera = {
        "source": "synthetic?fps=25&size=64x64",
        "tasks": [{"task": name, "every": "200ms"} for name in names],
    }
    streams = {"left": camera, "right": camera}
    with run_faulty(tmp_path, streams, poison="right/ocr/.*") as agent:
        (event,) = until(lambda: agent.statuses("task.quarantined"), START_S, "the verdict")
        assert (event["data"]["stream"], event["data"]["task"]) == ("right", "ocr")
        assert event["data"]["retry_in_s"] == PAUSE_S
        # Events of two sources, an agent and its stream, have no order.
        until(lambda: len(agent.statuses("worker.restarted")) >= 2, START_S, "both deaths are reported")
        restarted = agent.statuses("worker.restarted")
        assert len(restarted) == 2
        assert {one["data"]["worker"] for one in restarted} == {"infer"}
        known = len(agent.results())
        until(lambda: sum(one["data"]["outcome"] == "ok" for one in agent.results()[known:]) >= 14, START_S, "answers")
        before = len(agent.results())
        others = {(stream, name) for stream in streams for name in names} - {("right", "ocr")}

        def counts() -> Counter[tuple[str, str, str]]:
            results = [(one["data"]["stream"], one["subject"], one["data"]["outcome"]) for one in agent.results()]
            return Counter(results[before:])

        until(lambda: min(counts()[*other, "ok"] for other in others) >= 8, START_S, "all others are answered")
        assert counts().keys() == {(*other, "ok") for other in others} | {("right", "ocr", "error")}
        agent.stop()
        assert len(agent.statuses("worker.restarted")) == len(restarted)
        assert_no_duplicates(agent.events())
        for stream in streams:
            assert_identity(agent.statuses("stream.stopped", stream)[-1]["data"]["frames"])


def test_only_the_guilty_frame_of_a_recording_is_blocked(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures=30, size=(64, 64))
    streams = {
        "file": {"source": str(clip), "tasks": [{"task": name, "every_n_frames": 1} for name in ("caption", "ocr")]}
    }
    with run_faulty(tmp_path, streams, poison="file/ocr/17") as agent:
        assert agent.process.wait(START_S) == 0
        outcomes = {(one["subject"], one["data"]["frame"]["seq"]): one["data"]["outcome"] for one in agent.results()}
        assert outcomes.pop(("ocr", 17)) == "error"
        assert set(outcomes) == {(name, seq) for name in ("caption", "ocr") for seq in range(30)} - {("ocr", 17)}
        assert set(outcomes.values()) == {"ok"}
        assert len(agent.statuses("task.quarantined")) == 1
        assert len(agent.statuses("worker.restarted")) == 2
        assert_identity(agent.statuses("stream.ended", "file")[-1]["data"]["frames"])


def _restarted(agent: RunningAgent, times: int) -> bool:
    return len(agent.statuses("worker.restarted")) == times


def published(agent: RunningAgent) -> set[str]:
    """Return the jobs that have results, as the trace names them."""
    return {f"{one['data']['stream']}/{one['subject']}/{one['data']['frame']['seq']}" for one in agent.results()}


def test_every_job_has_an_outcome_after_random_kills(tmp_path: Path) -> None:
    """Each job in the engine's own trace has exactly one event, with the outcome ok or dropped."""
    camera = {"source": "synthetic?fps=25&size=64x64", "tasks": [{"task": "caption", "every": "100ms"},
                                                                 {"task": "ocr", "every": "250ms"}]}  # fmt: skip
    streams, trace, chance = {"left": camera, "right": camera}, tmp_path / "trace", random.Random(1)
    with run_faulty(tmp_path, streams, step=0.05, trace=str(trace)) as agent:
        agent.wait_for_results(5, START_S)
        add = ["task", "add", "left", "ocr", "--name", "added", "--every", "100ms"]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
        subprocess.run([sys.executable, "-m", "streamer.cli", *add], env=environment, check=True)
        captures = {name: pid for name, pid in agent.children().items() if name.startswith("capture")}
        for kills in range(1, 5):
            time.sleep(chance.uniform(0.2, 0.8))
            agent.kill("infer", signal.SIGKILL)
            until(partial(_restarted, agent, kills), START_S, "the restart")
            known = len(agent.results())
            agent.wait_for_results(known + 5, START_S)
        assert captures == {name: pid for name, pid in agent.children().items() if name.startswith("capture")}
        agent.stop()
        given = {name for line in trace.read_text().splitlines() for name in json.loads(line)}
        if not given <= published(agent):  # infer took too long to stop: the next start reports its jobs
            with run_faulty(tmp_path, streams, step=0.05) as agent:
                until(lambda: given <= published(agent), START_S, "all jobs are reported")
                agent.stop()
        assert any(name.startswith("left/added/") for name in given)
        jobs = [
            (one["source"], one["data"]["epoch"], one["subject"], one["data"]["frame"]["seq"])
            for one in agent.results()
        ]
        assert len(set(jobs)) == len(jobs)
        outcomes = Counter(one["data"]["outcome"] for one in agent.results())
        assert set(outcomes) <= {"ok", "dropped"}
        assert not agent.statuses("task.quarantined")
        assert_no_duplicates(agent.events())
        assert_no_holes(agent.events())
        for stream in streams:
            assert_identity(agent.statuses("stream.stopped", stream)[-1]["data"]["frames"])


def test_kills_from_outside_quarantine_no_task(tmp_path: Path) -> None:
    """Each kill hits the only task while it runs alone."""
    hang = tmp_path / "hang"
    streams = {"gate": {"source": "synthetic?fps=25&size=64x64", "tasks": [{"task": "caption", "every": "200ms"}]}}
    with run_faulty(tmp_path, streams, hang=str(hang)) as agent:
        agent.wait_for_results(1, START_S)
        for kills in range(1, 3):
            known = len(agent.results())
            agent.wait_for_results(known + 1, START_S)
            hang.touch()
            until(hang.read_text, START_S, "a step that does not end")
            hang.unlink()
            agent.kill("infer", signal.SIGKILL)
            until(partial(_restarted, agent, kills), START_S, "the restart")
        known = len(agent.results())
        results = agent.wait_for_results(known + 4, START_S)
        assert {one["data"]["outcome"] for one in results} == {"ok", "dropped"}
        assert not agent.statuses("task.quarantined")
