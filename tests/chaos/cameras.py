"""Faults of cameras: restarted, frozen, silent; and a long time with one that reconnects."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from tests.agents import until
from tests.chaos.bench import CAMERA, START_S, Footprint, Row, Size, agent, at_least, at_most, flat, footprint, rate
from tests.clips import write_clip
from tests.rtsp import RtspServer


def restarts(folder: Path, size: Size) -> Iterator[Row]:
    """an RTSP server is killed and started again."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    server, back = RtspServer(clip), []
    camera = {"source": server.url, "tasks": CAMERA["tasks"]}
    before: Footprint | None = None
    with server, agent(folder, {"gate": camera}) as running:
        running.wait_for_results(3, START_S)
        for _ in range(size.of(1, 20, 100)):
            downs = len(running.statuses("stream.down"))
            server.kill()
            until(lambda downs=downs: len(running.statuses("stream.down")) > downs, 20, "down")  # type: ignore[misc]
            server.start()
            began, known = time.monotonic(), len(running.results())
            running.wait_for_results(known + 1, 60)
            back.append(time.monotonic() - began)
            before = before or footprint(running)
        assert before is not None
        yield at_most("answers back, p95", 8, sorted(back)[int(0.95 * (len(back) - 1))], " s")
        yield from flat(before, footprint(running))


def frozen(folder: Path, size: Size) -> Iterator[Row]:
    """a camera's server freezes with its connections open; then its video stops while RTCP lives."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    server = RtspServer(clip)
    camera = {"source": server.url, "tasks": CAMERA["tasks"]}
    with server, agent(folder, {"gate": camera, "other": CAMERA}) as running:
        running.wait_for_results(3, START_S, "gate")
        time.sleep(16)  # until its rhythm is known
        hurts = [("frozen", server.freeze, server.thaw), ("no video", server.pause, server.resume)]
        for words, hurt, heal in hurts[: size.of(1, 2, 2)]:
            downs, known, began = len(running.statuses("stream.down")), len(running.results()), time.monotonic()
            hurt()
            until(lambda downs=downs: len(running.statuses("stream.down")) > downs, 30, "noticed")  # type: ignore[misc]
            seconds = time.monotonic() - began
            yield at_most(f"{words}: noticed in", 8, seconds, " s")
            share = rate(running, "other", known) / (5 * seconds)
            yield Row("rate of the other camera", ">= 90 %", f"{100 * share:.0f} %", share >= 0.9)
            heal()
            known = len(running.results("gate"))
            running.wait_for_results(known + 3, 60, "gate")


def soak(folder: Path, size: Size) -> Iterator[Row]:
    """a camera that reconnects ten times a minute, for long."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    server = RtspServer(clip)
    camera = {"source": server.url, "tasks": CAMERA["tasks"]}
    seconds, seen, counts = size.of(0, 1200, 24 * 3600), list[Footprint](), 0
    with server, agent(folder, {"gate": camera, "other": CAMERA}) as running:
        running.wait_for_results(3, START_S)
        until_ = time.monotonic() + seconds
        while time.monotonic() < until_:
            server.kill()
            time.sleep(1)
            server.start()
            time.sleep(5)
            counts += 1
            seen.append(footprint(running))
        third = len(seen) // 3
        middle, last = seen[third : 2 * third], seen[2 * third :]
        for name in last[-1].memory:
            grown = statistics.median(one.memory[name] for one in last) - statistics.median(
                one.memory[name] for one in middle
            )
            yield at_most(f"memory of {name} grown by", 2, grown / 2**20, " MB")
        yield at_least("reconnections", seconds / 8, counts)
        yield from flat(middle[0], last[-1])
