"""Faults of processes: killed, stopped, hanging, poisoned, ended at any moment."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.agents import RunningAgent, is_alive, until
from tests.chaos.bench import CAMERA, START_S, Row, Size, agent, at_most, is_so


def infer_killed(folder: Path, size: Size) -> Iterator[Row]:
    """infer is killed again and again."""
    trace, noticed = folder / "trace", []
    kills, pause = size.of(1, 12, 60), size.of(1, 15, 15)
    with agent(folder, {"left": CAMERA, "right": CAMERA}, trace=str(trace)) as running:
        running.wait_for_results(5, START_S)
        captures = {name: pid for name, pid in running.children().items() if name.startswith("capture")}
        for kill in range(kills):
            lines = running.errors.read_text().count("infer ended")
            killed = time.monotonic()
            running.kill("infer")
            until(lambda lines=lines: running.errors.read_text().count("infer ended") > lines, 5, "noticed")  # type: ignore[misc]
            noticed.append(time.monotonic() - killed)
            known = len(running.results())
            running.wait_for_results(known + 5, START_S)
            time.sleep(max(0.0, killed + pause - time.monotonic()) if kill < kills - 1 else 0)
        same = captures == {name: pid for name, pid in running.children().items() if name.startswith("capture")}
        running.stop()
        given = {name for line in trace.read_text().splitlines() for name in json.loads(line)}
        told = Counter(
            f"{one['data']['stream']}/{one['subject']}/{one['data']['frame']['seq']}" for one in running.results()
        )
        yield at_most("noticed in", 0.2, max(noticed), " s")
        yield at_most("jobs without an outcome", 0, len(given - set(told)))
        yield at_most("jobs with two", 0, sum(count > 1 for count in told.values()))
        yield is_so("capture never restarts", same)


def infer_stopped(folder: Path, size: Size) -> Iterator[Row]:
    """infer is stopped (SIGSTOP)."""
    with agent(folder, {"gate": CAMERA}) as running:
        running.wait_for_results(5, START_S)
        began = time.monotonic()
        pid = running.kill("infer", signal.SIGSTOP)
        yield from _replaced(running, began, pid)


def step_never_returns(folder: Path, size: Size) -> Iterator[Row]:
    """a step of the engine never returns."""
    hang = folder / "hang"
    with agent(folder, {"gate": CAMERA}, hang=str(hang)) as running:
        running.wait_for_results(5, START_S)
        began, pid = time.monotonic(), running.children()["infer"]
        hang.touch()
        until(lambda: "no sign of life" in running.errors.read_text(), 30, "noticed")
        hang.unlink()
        yield from _replaced(running, began, pid)


def _replaced(running: RunningAgent, began: float, pid: int) -> Iterator[Row]:
    until(lambda: "no sign of life" in running.errors.read_text(), 30, "noticed")
    yield at_most("noticed in", 10, time.monotonic() - began, " s")
    until(lambda: running.children().get("infer", pid) != pid, 30, "replaced")
    known = len(running.results())
    running.wait_for_results(known + 3, START_S)
    yield is_so("stacks in the log", "infer left its stacks:" in running.errors.read_text())
    yield is_so("replaced, and answers", not is_alive(pid))


def poison(folder: Path, size: Size) -> Iterator[Row]:
    """one question of eight kills infer."""
    names = ("caption", "detailed_caption", "object_detection", "ocr")
    camera = {"source": CAMERA["source"], "tasks": [{"task": name, "every": "200ms"} for name in names]}
    with agent(folder, {"left": camera, "right": camera}, poison="right/ocr/.*") as running:
        until(lambda: running.statuses("task.quarantined"), START_S, "found")
        known, seconds = len(running.results()), size.of(3, 20, 60)
        time.sleep(seconds)
        good = sum(one["data"]["outcome"] == "ok" for one in running.results()[known:])
        yield at_most("deaths", 5, len(running.statuses("worker.restarted")))
        share = good / (7 * 5 * seconds)
        yield Row("rate of the rest", ">= 90 %", f"{100 * share:.0f} %", share >= 0.9)


def _catches_sigterm(pid: int) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def terminated(folder: Path, size: Size) -> Iterator[Row]:
    """SIGTERM at random moments."""
    chance, seconds, codes, orphans = random.Random(1), [], Counter[int](), 0
    for number in range(size.of(2, 50, 200)):
        with agent(folder / str(number), {"gate": CAMERA}) as running:
            until(lambda running=running: _catches_sigterm(running.process.pid), 30, "it has begun")  # type: ignore[misc]
            time.sleep(chance.uniform(0, 6))
            children = running.children()
            seconds.append(running.stop(20))
            codes[running.process.returncode] += 1
            orphans += sum(map(is_alive, children.values()))
    yield is_so("exit code 0", set(codes) == {0}, dict(codes))
    yield at_most("the slowest end", 10, max(seconds), " s")
    yield at_most("processes left", 0, orphans)
