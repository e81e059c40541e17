"""Process faults: kill, stop, hang, a job that kills inference, SIGTERM at any moment."""

from __future__ import annotations

import json
import math
import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

from tests.chaos.bench import CAMERA, START_S, Row, Size, agent, at_most, holes, is_so, median_at_most, share_at_least
from tests.support.agents import RunningAgent, is_alive, until


def infer_killed(folder: Path, size: Size) -> Iterator[Row]:
    """infer is killed (kill -9) repeatedly."""
    trace, noticed = folder / "trace", []
    kills, pause = size.of(1, 12, 60), size.of(1, 15, 15)
    with agent(folder, {"left": CAMERA, "right": CAMERA}, trace=str(trace)) as running:
        running.wait_for_results(5, START_S)
        captures = _captures(running)
        for kill in range(kills):
            lines = running.errors.read_text().count("infer ended")
            killed = time.monotonic()
            running.kill("infer")
            until(lambda lines=lines: running.errors.read_text().count("infer ended") > lines, 5, "noticed")  # type: ignore[misc]
            noticed.append(time.monotonic() - killed)
            known = len(running.results())
            running.wait_for_results(known + 5, START_S)
            time.sleep(max(0.0, killed + pause - time.monotonic()) if kill < kills - 1 else 0)
        same = captures == _captures(running)
        running.stop()
    given = {name for line in trace.read_text().splitlines() for name in json.loads(line)}
    reported = Counter(
        f"{one['data']['stream']}/{one['subject']}/{one['data']['frame']['seq']}" for one in running.results()
    )
    counts = [one["data"]["frames"] for one in running.statuses("stream.stopped")]
    yield at_most("noticed in", 0.2, max(noticed), " s")
    yield at_most(f"jobs without an outcome, of {len(given)}", 0, len(given - set(reported)))
    yield at_most("jobs with two", 0, sum(count > 1 for count in reported.values()))
    yield at_most("frames in no or two places", 0, sum(map(_misplaced, counts)) if len(counts) == 2 else math.inf)
    yield at_most("holes in the sequences", 0, holes(running.events()))
    yield at_most("tasks quarantined", 0, len(running.statuses("task.quarantined")))
    yield is_so("capture never restarts", same)


def _captures(running: RunningAgent) -> dict[str, int]:
    return {name: pid for name, pid in running.children().items() if name.startswith("capture")}


def _misplaced(frames: dict[str, Any]) -> int:
    placed = frames["not_asked"] + frames["done"] + sum(frames["dropped"].values()) + frames["in_flight"]
    return abs(int(frames["captured"] - placed))


def infer_stopped(folder: Path, size: Size) -> Iterator[Row]:
    """infer is stopped (SIGSTOP)."""
    with agent(folder, {"gate": CAMERA}) as running:
        running.wait_for_results(5, START_S)
        yield from _replaced(running, size.of(1, 3, 10), lambda: running.kill("infer", signal.SIGSTOP))


def step_never_returns(folder: Path, size: Size) -> Iterator[Row]:
    """a step of the engine never returns."""
    hang = folder / "hang"
    with agent(folder, {"gate": CAMERA}, hang=str(hang)) as running:
        running.wait_for_results(5, START_S)
        yield from _replaced(running, size.of(1, 3, 10), hang.touch, lambda: hang.unlink())


def _replaced(
    running: RunningAgent, times: int, break_it: Callable[[], object], repair: Callable[[], object] = lambda: None
) -> Iterator[Row]:
    noticed, answers, left = [], [], 0
    for number in range(1, times + 1):
        began, pid = time.monotonic(), running.children()["infer"]
        break_it()
        until(lambda number=number: _times(running, "infer stuck") >= number, 30, "noticed")  # type: ignore[misc]
        noticed.append(time.monotonic() - began)
        repair()
        until(lambda pid=pid: running.children().get("infer", pid) != pid, 30, "replaced")  # type: ignore[misc]
        known = len(running.results())
        running.wait_for_results(known + 3, START_S)
        answers.append(time.monotonic() - began)
        left += is_alive(pid)
    yield median_at_most("noticed in", 10, noticed)
    yield is_so("stacks in the log each time", _times(running, "infer left its stacks:") == times)
    yield is_so("replaced", not left, f"answers {statistics.median(answers):.1f} s after the fault")
    yield at_most("tasks quarantined", 0, len(running.statuses("task.quarantined")))


def _times(running: RunningAgent, text: str) -> int:
    return running.errors.read_text().count(text)


def poison(folder: Path, size: Size) -> Iterator[Row]:
    """one of eight tasks kills infer."""
    names = ("caption", "detailed_caption", "object_detection", "ocr")
    camera = {"source": CAMERA["source"], "tasks": [{"task": name, "every": "200ms"} for name in names]}
    trace, step = folder / "trace", 0.1  # seconds per step, so that all due jobs share a batch
    streams = {"left": camera, "right": camera}
    with agent(folder, streams, poison="right/ocr/.*", step=step, trace=str(trace)) as running:
        until(lambda: running.statuses("task.quarantined"), START_S, "found")
        known, seconds = len(running.results()), size.of(3, 20, 50)
        time.sleep(seconds)
        good = sum(one["data"]["outcome"] == "ok" for one in running.results()[known:])
        guilty = {(one["data"]["stream"], one["data"]["task"]) for one in running.statuses("task.quarantined")}
        batches = [json.loads(line) for line in trace.read_text().splitlines()]
        first = next(len(batch) for batch in batches if any(name.startswith("right/ocr/") for name in batch))
        yield at_most(f"deaths, the first in a batch of {first}", 5, len(running.statuses("worker.restarted")))
        yield share_at_least("rate of the rest", 0.9, good / (7 * 5 * seconds))
        yield is_so("only the guilty task is quarantined", guilty == {("right", "ocr")})


def _handles_sigterm(pid: int) -> bool:
    """Return whether the process blocks or handles SIGTERM."""
    masks = re.findall(r"Sig(?:Blk|Cgt):\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def terminated(folder: Path, size: Size) -> Iterator[Row]:
    """SIGTERM at random moments, every second time while a video is written."""
    rng, seconds, codes, orphans = random.Random(1), list[float](), Counter[int](), 0
    films = folder / "films"
    films.mkdir()
    outputs = {"outputs": [{"kind": "mp4", "stream": "gate", "path": str(films)}]}
    for number in range(size.of(2, 50, 200)):
        with agent(folder / str(number), {"gate": CAMERA}, config=outputs) as running:
            until(lambda running=running: _handles_sigterm(running.process.pid), 30, "it has begun")  # type: ignore[misc]
            if number % 2:
                running.wait_for_results(1, START_S)
            time.sleep(rng.uniform(0, 3))
            children = running.children()
            seconds.append(running.stop(20))
            codes[running.process.returncode] += 1
            orphans += sum(map(is_alive, children.values()))
    files = list(films.iterdir())
    yield is_so("exit code 0", set(codes) == {0}, dict(codes))
    yield at_most("the slowest end", 10, max(seconds), " s")
    yield at_most("processes left", 0, orphans)
    yield at_most(f"videos that do not play, of {len(files)}", 0, sum(not _plays(file) for file in files))


def _plays(video: Path) -> bool:
    """Return whether the video can be decoded to its end and has a frame."""
    try:
        with av.open(str(video)) as container:
            return sum(1 for _ in container.decode(video=0)) > 0
    except (av.error.FFmpegError, IndexError):
        return False
