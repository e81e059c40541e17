"""Media faults: damaged files and conversations without number, and a camera that is hostile in many ways."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos.bench import (
    CAMERA,
    START_S,
    Row,
    Size,
    agent,
    at_least,
    at_most,
    footprint,
    is_so,
    rate,
    share_at_least,
)
from tests.support.agents import Event, RunningAgent, until
from tests.support.certificates import Authority
from tests.support.fuzzing import Corpus, Talk, TalkServer, http_talk, rtsp_talk, serve_file, serve_http
from tests.support.hostile_camera import HostileCamera, ways

SEED = 20261125
"""Change it to try other inputs."""
MAX_MB = 512
"""Largest memory of a process. The model is not loaded: its process is not measured with weights."""
FAST_RETRY = """
from streamer.core import backoff

backoff.FIRST_DELAY_S = backoff.MAX_SHORT_DELAY_S = backoff.MAX_DELAY_S = 0.05
backoff.REFUSED_DELAY_S = (0.05, 0.05)
"""
"""Module that every process of the agent imports at its start: cameras are reconnected at once."""
TASKS = [{"task": "caption", "every": "1s"}]


class Fuzzer:
    """A hostile server of one camera. It plays when its inputs are used up."""

    def __init__(self, corpus: Corpus, inputs: list[tuple[str, int]]) -> None:
        self._corpus, self.inputs = corpus, inputs
        self.server = TalkServer(self._choose)
        self.at = 0
        """Inputs so far."""

    def _choose(self, _: int) -> Talk:
        if self.at >= len(self.inputs):
            return serve_file("clip.ts", self._corpus.intact())
        kind, number = self.inputs[self.at]
        self.at += 1
        return {
            "file": lambda: serve_file(*self._corpus.file(number)),
            "http": lambda: http_talk(number, SEED, self._corpus),
            "rtsp": lambda: rtsp_talk(number, SEED),
        }[kind]()


def fuzzing(folder: Path, size: Size) -> Iterator[Row]:
    """2,000 damaged files and 500 hostile conversations are sent to real capture processes."""
    files, talks = size.of(16, 2000, 10_000), size.of(8, 500, 2500)
    corpus = Corpus(folder / "corpus", SEED)
    fuzzers = {
        "files-a": Fuzzer(corpus, [("file", number) for number in range(0, files, 2)]),
        "files-b": Fuzzer(corpus, [("file", number) for number in range(1, files, 2)]),
        "http": Fuzzer(corpus, [("http", number) for number in range(talks // 2)]),
        "rtsp": Fuzzer(corpus, [("rtsp", number) for number in range(talks - talks // 2)]),
    }
    (folder / "installed").mkdir(parents=True)
    (folder / "installed" / "sitecustomize.py").write_text(FAST_RETRY)
    cameras = {
        name: {"source": f"{'rtsp' if name == 'rtsp' else 'http'}://127.0.0.1:{fuzzer.server.port}/x", "tasks": TASKS}
        for name, fuzzer in fuzzers.items()
    }
    memory: list[int] = []
    with agent(folder / "hostile", {**cameras, "other": CAMERA}, {"PYTHONPATH": _path(folder)}) as running:
        running.wait_for_results(3, START_S, "other")
        usual = _rate(running, "other", size.of(3, 30, 60))
        for fuzzer in fuzzers.values():
            fuzzer.server.__enter__()
        known, began = len(running.results()), time.monotonic()
        while any(fuzzer.at < len(fuzzer.inputs) for fuzzer in fuzzers.values()):
            if time.monotonic() > began + size.of(60, 1200, 6000):
                break
            memory.append(max(footprint(running).memory[f"capture:{name}"] for name in fuzzers))
            time.sleep(1)
        seconds = time.monotonic() - began
        share = rate(running, "other", known) / (usual * seconds)
        back = [_answers_again(running, name, fuzzer.server) for name, fuzzer in fuzzers.items()]
        deaths = [event["data"] for event in running.statuses("worker.restarted")]
        peak = max(_peaks(running).values())
        for fuzzer in fuzzers.values():
            fuzzer.server.__exit__(None, None, None)
    for death in deaths:
        name = str(death["worker"]).removeprefix("capture:")
        (folder / f"{name}-{fuzzers[name].at}.txt").write_text(f"{death['reason']}\n")
    yield at_least("inputs", files + talks, sum(fuzzer.at for fuzzer in fuzzers.values()))
    yield Row("capture processes that died", "<= 0", f"{len(deaths)} {deaths[:3]}", not deaths)
    yield is_so("all cameras answered again", all(back))
    yield share_at_least("rate of another camera", 0.95, share)
    third = max(1, len(memory) // 3)
    grown = statistics.median(memory[-third:]) - statistics.median(memory[third : 2 * third] or memory)
    yield at_most("memory grown by", 20, grown / 2**20, " MB")
    yield at_most("largest process", MAX_MB, peak, " MB")


def _answers_again(running: RunningAgent, name: str, server: TalkServer) -> bool:
    """Return whether a camera that plays again is answered again. RTSP: whether it is connected again."""
    known, served = len(running.results(name)), server.served
    return bool(
        until(lambda: len(running.results(name)) > known or (name == "rtsp" and server.served > served), 60, name)
    )


def _path(folder: Path) -> str:
    return os.pathsep.join(
        [str(folder / "installed"), str(folder / "hostile" / "installed"), str(Path(__file__).parents[2])]
    )


def _rate(running: RunningAgent, stream: str, seconds: float) -> float:
    known, began = len(running.results()), time.monotonic()
    time.sleep(seconds)
    return rate(running, stream, known) / (time.monotonic() - began)


def hostile_camera(folder: Path, size: Size) -> Iterator[Row]:
    """one of eight cameras is hostile in one way after the other: sizes, bombs, endless answers, redirects, text."""
    folder.mkdir(parents=True, exist_ok=True)
    right, wrong = Authority(folder, "right"), Authority(folder, "wrong")
    others = [f"camera{number}" for number in range(1, 8)]
    tasks = [{"task": "caption", "every": "1s"}]
    cameras: dict[str, Any] = {
        name: {"source": f"synthetic?fps=25&size=160x120&seed={name[-1]}", "tasks": tasks} for name in others
    }
    with HostileCamera(right.issue("camera")) as camera, TalkServer(lambda _: serve_http(b"")) as elsewhere:
        talks = ways(f"https://localhost:{elsewhere.port}/x")
        source = {"kind": "http", "url": camera.url, "tls": {"ca": str(right.cert)}}
        with agent(folder / "agent", {**cameras, "hostile": {"source": source, "tasks": tasks}}) as running:
            for name in (*others, "hostile"):
                running.wait_for_results(2, START_S, name)
            known, lines = len(running.results()), len(_lines(running))
            turns = camera.in_turn(talks, wrong.issue("impostor"), size.of(1, 3, 5), size.of(1, 12, 40))
            survived = [name for name in turns if running.process.poll() is None]
            answers = [event for event in running.results()[known:] if event["data"]["stream"] in others]
            logged = _most_lines_in_a_minute(running, lines)
            running.wait_for_results(len(running.results("hostile")) + 1, 90, "hostile")
            deaths = [event["data"]["reason"] for event in running.statuses("worker.restarted")]
            peaks = _peaks(running)
    yield at_least("ways after which the agent runs", len(talks) + 1, len(survived))
    yield at_most("longest time without an answer", 1.9, max(_longest_gap(answers, name) for name in others), " s")
    yield is_so("no answer of others is lost", all(one["data"]["outcome"] == "ok" for one in answers), len(answers))
    yield Row("processes that died", "<= 0", f"{len(deaths)} {deaths[:3]}", not deaths)
    yield at_most("log lines in a minute", 20, logged)
    yield at_most("connections to another host", 0, elsewhere.served)
    yield at_most("hostile camera's process", 300, peaks["capture:hostile"], " MB")
    yield at_most(f"largest process ({max(peaks, key=peaks.__getitem__)})", MAX_MB, max(peaks.values()), " MB")


def _lines(running: RunningAgent) -> list[str]:
    return running.errors.read_text(errors="replace").splitlines()


def _most_lines_in_a_minute(running: RunningAgent, since: int) -> int:
    """Return the largest number of log lines in any minute, after the first `since` lines."""
    times = [
        int(line[:2]) * 3600 + int(line[3:5]) * 60 + int(line[6:8])
        for line in _lines(running)[since:]
        if line[:8].replace(":", "").isdigit()
    ]
    return max((sum(at <= other < at + 60 for other in times) for at in times), default=0)


def _longest_gap(answers: list[Event], stream: str) -> float:
    """Return the longest time between two frames that were answered, in seconds."""
    times: list[float] = [event["data"]["frame"]["pts"] for event in answers if event["data"]["stream"] == stream]
    return max((after - before for before, after in pairwise(times)), default=math.inf)


def _peaks(running: RunningAgent) -> dict[str, float]:
    """Return the most memory that each process of the agent has had, in MB."""
    pids = {"parent": running.process.pid, **running.children()}
    texts = {name: Path(f"/proc/{pid}/status").read_text() for name, pid in pids.items()}
    return {name: int(text.partition("VmHWM:")[2].split()[0]) / 1024 for name, text in texts.items()}
