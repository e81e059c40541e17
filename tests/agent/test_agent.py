"""The whole program with real processes, sockets, an RTSP server, the shipped model and kill -9."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.pipeline import pipeline
from tests.support import faulty
from tests.support.agents import (
    Event,
    RunningAgent,
    assert_identity,
    assert_no_duplicates,
    assert_no_holes,
    is_alive,
    until,
)
from tests.support.clips import write_clip
from tests.support.rtsp import RtspServer

START_S = 200.0
"""Seconds to load torch and the model on a busy machine."""


def write_config(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "home.yaml"
    file.write_text(f"{text}\nsinks:\n  - {{kind: jsonl, path: {folder / 'events.jsonl'}}}\n")
    return file


def run_agent(folder: Path, text: str) -> RunningAgent:
    return RunningAgent(folder, ["run", str(write_config(folder, text))], folder / "events.jsonl")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", pictures=100, size=(320, 240))


def last_counts(agent: RunningAgent, stream: str, subject: str) -> dict[str, Any]:
    counts: dict[str, Any] = agent.statuses(subject, stream)[-1]["data"]["frames"]
    return counts


def test_watch_answers_about_fresh_frames_of_a_camera(tmp_path: Path, clip: Path) -> None:
    with RtspServer(clip, fps=25) as server:
        command = ["watch", server.url, "--task", "object_detection", "--every", "1s", "--seconds", "10"]
        with RunningAgent(tmp_path / "agent", command) as agent:
            assert agent.process.wait(START_S) == 0, agent.log()
            results = agent.results()
            assert results
            timings = [event["data"]["timing"] for event in results]
            late = [timing for timing in timings if timing["age_ms"] > 2000 + timing["inference_ms"]]
            assert len(late) < len(results) / 2, "most answers are about a fresh frame"
            counts = last_counts(agent, "watch", "stream.stopped")
            assert_identity(counts)
            assert counts["in_flight"] == 0
            assert counts["done"] == len(results)
            assert_no_holes(agent.events())


def end(agent: RunningAgent) -> None:
    """Stop the agent with SIGTERM and check that no process, frame buffer or event is left or lost."""
    children = agent.children()
    agent.stop()
    assert agent.process.returncode == 0
    assert not any(map(is_alive, children.values()))
    assert list((agent.folder / "run").glob("**/*.buf")) == []
    assert_no_duplicates(agent.events())
    assert_no_holes(agent.events())


STOPPED_IN_AN_IMPORT = """
import os, signal, sys, weakref

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "streamer.processes.supervisor":
            dies = Finder()
            callback = weakref.ref(dies, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            del dies

sys.meta_path.insert(0, Finder())
from streamer.cli.main import main
main()
"""


def test_sigterm_during_imports_stops_the_agent(tmp_path: Path) -> None:
    """The signal comes in a weak reference's callback, where Python ignores exceptions, as in the import system."""
    config = write_config(tmp_path, "streams: {gate: {source: synthetic, tasks: [{task: caption}]}}")
    command = [sys.executable, "-c", STOPPED_IN_AN_IMPORT]
    with RunningAgent(tmp_path / "agent", ["run", str(config)], command=command) as agent:
        assert agent.process.wait(START_S) == 0, agent.log()
        assert "INFO" not in agent.log()  # a started child would log at this level


def test_restarted_camera_comes_back_in_a_new_epoch(tmp_path: Path, clip: Path) -> None:
    config = """
streams:
  dead: {source: 'rtsp://eve:hunter22@127.0.0.1:9/cam', tasks: [{task: caption}]}
  gate: {source: '%s', tasks: [{task: object_detection, every: 500ms}]}"""
    with RtspServer(clip, fps=25) as server, run_agent(tmp_path / "agent", config % server.url) as agent:
        before = agent.wait_for_results(3, START_S)
        server.kill()
        down = until(lambda: agent.statuses("stream.down", "gate"), START_S, "the lost camera was noticed")[0]
        assert down["data"]["reason"]
        server.start()
        epoch = before[0]["data"]["epoch"]
        until(lambda: agent.results()[-1]["data"]["epoch"] > epoch, START_S, f"an answer again; {agent.log()}")
        assert len(agent.statuses("stream.down", "dead")) == 1
        end(agent)
        counts = last_counts(agent, "gate", "stream.stopped")
        assert_identity(counts)
        assert counts["in_flight"] == 0
        assert "hunter22" not in agent.log() + agent.file.read_text()


def test_batches_mix_cameras_and_file(tmp_path: Path, clip: Path) -> None:
    config = f"""
model: {{engine: plain}}
streams:
  file: {{source: {clip}, tasks: [{{task: caption, every: 200ms}}, {{task: object_detection, every_n_frames: 20}}]}}
  left: {{source: 'URL', tasks: [{{task: object_detection, every: 250ms}}]}}
  right: {{source: 'URL', tasks: [{{task: caption, every: 250ms}}]}}"""
    server = RtspServer(clip, fps=25)
    with server, run_agent(tmp_path / "agent", config.replace("URL", server.url)) as agent:
        until(lambda: agent.statuses("stream.ended", "file"), START_S, f"the file's end; {agent.log()}")
        agent.wait_for_results(5, START_S, "left")
        agent.wait_for_results(5, START_S, "right")
        end(agent)
        captions, boxes = (
            [event["data"]["frame"] for event in agent.results("file") if event["subject"] == name]
            for name in ("caption", "object_detection")
        )
        assert [frame["pts"] for frame in captions] == pytest.approx([tick * 0.2 for tick in range(20)])
        assert [frame["seq"] for frame in boxes] == [0, 20, 40, 60, 80]
        ended = last_counts(agent, "file", "stream.ended")
        assert_identity(ended)
        assert (ended["captured"], ended["in_flight"], ended["dropped"]) == (100, 0, {})
        for stream in ("left", "right"):
            assert_identity(last_counts(agent, stream, "stream.stopped"))
        assert any(len({e["data"]["stream"] for e in batch}) > 1 for batch in batches(agent))


def batches(agent: RunningAgent) -> list[list[dict[str, Any]]]:
    """Group result events by batch: jobs of a batch have the same start, which is capture time plus waiting time."""

    def start(event: dict[str, Any]) -> int:
        captured = datetime.fromisoformat(event["time"]).timestamp()
        waited: float = event["data"]["timing"]["waited_ms"] / 1000
        return round((captured + waited) * 100)

    found = sorted(agent.results(), key=start)
    return [list(group) for _, group in groupby(found, start)]


def test_killed_process_restarts_without_affecting_others(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", pictures=200, size=(320, 240))
    config = f"""
streams:
  gate: {{source: 'synthetic?fps=25', tasks: [{{task: object_detection, every: 200ms}}]}}
  yard: {{source: 'synthetic?seed=2', tasks: [{{task: caption, every: 200ms}}]}}
  file: {{source: {clip}, tasks: [{{task: caption, every_n_frames: 1}}]}}"""
    victims = ["infer", "emit", "capture:gate"]
    with run_agent(tmp_path / "agent", config) as agent:
        agent.wait_for_results(10, START_S)
        assert not agent.statuses("stream.ended", "file")
        for victim in victims:
            others = agent.children()
            killed = agent.kill(victim)
            del others[victim]
            until(partial(is_replaced, agent, victim, killed), START_S, f"{victim} came back; {agent.log()}")
            known = len(agent.results("gate"))
            agent.wait_for_results(known + 5, START_S, "gate")
            now = agent.children()
            if "capture:file" not in now:  # the file has ended
                others.pop("capture:file", None)
            assert {name: now.get(name) for name in others} == others
        until(lambda: agent.statuses("stream.ended", "file"), START_S, f"the file ended; {agent.log()}")
        assert agent.process.poll() is None
        end(agent)
        for stream in ("gate", "yard"):
            assert_identity(last_counts(agent, stream, "stream.stopped"))
        assert [event["data"]["worker"] for event in agent.statuses("worker.restarted")] == victims
        assert {event["data"]["frame"]["seq"] for event in agent.results("file")} == set(range(200))
        assert_identity(last_counts(agent, "file", "stream.ended"))


def is_replaced(agent: RunningAgent, child: str, killed: int) -> bool:
    return agent.children().get(child, killed) != killed


def test_children_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    file = faulty.config(tmp_path, {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}, {})
    environment = faulty.install(tmp_path / "installed")
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
        agent.wait_for_results(1, START_S)
        orphans = agent.children()
        agent.process.send_signal(signal.SIGKILL)
        until(lambda: not any(map(is_alive, orphans.values())), 10, "all children ended")


TEXTS = {"phrase_grounding": "a red circle", "referring_segmentation": "the red circle",
         "open_vocabulary_detection": "red circle"}  # fmt: skip
REGION = [0.1, 0.1, 0.6, 0.6]
TASKS = pipeline.tasks()


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Event]]:
    """Return at least two results of each task, from one agent that runs all of them."""
    tasks = [
        {"task": task, "every": "200ms"}
        | ({"text": TEXTS[task]} if spec.takes_text else {})
        | ({"region": REGION} if spec.takes_region else {})
        for task, spec in TASKS.items()
    ]
    streams = {"gate": {"source": "synthetic?seed=3", "tasks": tasks}}
    with run_agent(tmp_path_factory.mktemp("tasks"), f"streams: {json.dumps(streams)}") as agent:  # JSON is YAML

        def two_of_each() -> bool:
            counts = Counter(event["data"]["task"] for event in agent.results())
            return all(counts[task] >= 2 for task in TASKS)

        until(two_of_each, START_S, f"two of each; {agent.log()}")
        end(agent)
        return {task: [event for event in agent.results() if event["data"]["task"] == task] for task in TASKS}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_answers(answers: dict[str, list[Event]], task: str) -> None:
    assert len(answers[task]) >= 2
    for event in answers[task]:
        assert event["data"]["outcome"] in ("ok", "empty"), event["data"]
        kinds = {kind for kind in ("text", "boxes", "polygons", "quads") if event["data"]["result"][kind]}
        assert kinds <= set(TASKS[task].result.split("_or_"))


@pytest.mark.parametrize("task", [task for task in sorted(TASKS) if task.startswith("grounded")])
def test_grounded_caption_says_what_the_picture_supports(answers: dict[str, list[Event]], task: str) -> None:
    results = [event["data"]["result"] for event in answers[task]]
    spans = [(one["text"], span) for one in results for span in one["spans"]]
    assert all(text[span["start"] : span["end"]] == span["phrase"] for text, span in spans)
    assert all(bool(span["boxes"]) is span["supported"] for _, span in spans)  # these captions seldom count
    assert sum(span["supported"] for _, span in spans) >= 0.8 * len(spans) > 0


def test_watch_stops_after_max_events(tmp_path: Path) -> None:
    command = ["watch", "synthetic", "--task", "region_to_category", "--region", "0.1,0.1,0.6,0.6", "--max-events", "2"]
    with RunningAgent(tmp_path, command, environment=faulty.install(tmp_path / "installed")) as agent:
        assert agent.process.wait(START_S) == 0, agent.log()
        assert [(event["subject"], event["data"]["region"]) for event in agent.results()] == [
            ("region_to_category", REGION)
        ] * 2
