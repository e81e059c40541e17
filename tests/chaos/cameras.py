"""Camera faults: restart, half-open connection, freeze, silence; and a long run with a camera that reconnects."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.bench import (
    CAMERA,
    START_S,
    Footprint,
    Row,
    Size,
    agent,
    at_least,
    at_most,
    flat,
    footprint,
    median_at_most,
    rate,
    share_at_least,
)
from tests.chaos.link import Link
from tests.support.agents import until
from tests.support.clips import write_clip
from tests.support.rtsp import RtspServer

SETTLE_S = 22.0
"""Seconds after which earlier gaps of a camera with 25 frames/s no longer affect its silence timeout."""


def restarts(folder: Path, size: Size) -> Iterator[Row]:
    """an RTSP server is killed, away for up to ten seconds, and started again."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    server, back, rng = RtspServer(clip), list[float](), random.Random(1)
    camera = {"source": server.url, "tasks": CAMERA["tasks"]}
    before: Footprint | None = None
    with server, agent(folder, {"gate": camera}) as running:
        running.wait_for_results(3, START_S)
        for _ in range(size.of(1, 20, 100)):
            downs = len(running.statuses("stream.down"))
            server.kill()
            until(lambda downs=downs: len(running.statuses("stream.down")) > downs, 20, "down")  # type: ignore[misc]
            time.sleep(rng.uniform(0, 10))
            server.start()
            began, known = time.monotonic(), len(running.results())
            running.wait_for_results(known + 1, 60)
            back.append(time.monotonic() - began)
            before = before or footprint(running)
        assert before is not None
        yield at_most("answers back, p95", 8, sorted(back)[int(0.95 * (len(back) - 1))], " s")
        yield from flat(before, footprint(running))


def frozen(folder: Path, size: Size) -> Iterator[Row]:
    """a camera's connection is half open, or its server freezes, or its video stops while RTCP continues."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    remote, stopped, silent = RtspServer(clip), RtspServer(clip), RtspServer(clip)
    link = Link(remote.port)
    faults: dict[str, tuple[str, Callable[[], None], Callable[[], None]]] = {
        "far": ("half open", link.cut, link.mend),
        "stopped": ("frozen", stopped.freeze, stopped.thaw),
        "silent": ("no video", silent.pause, silent.resume),
    }
    urls = {"far": remote.url.replace(str(remote.port), str(link.port)), "stopped": stopped.url, "silent": silent.url}
    cameras = {name: {"source": url, "tasks": CAMERA["tasks"]} for name, url in urls.items()}
    noticed: dict[str, list[float]] = {name: [] for name in faults}
    shares: list[float] = []
    with remote, stopped, silent, link, agent(folder, {**cameras, "other": CAMERA}) as running:
        for name in cameras:
            running.wait_for_results(3, START_S, name)
        for _ in range(size.of(1, 3, 10)):
            time.sleep(SETTLE_S)
            for name, (_, break_it, repair) in faults.items():
                downs, known, began = (
                    len(running.statuses("stream.down", name)),
                    len(running.results()),
                    time.monotonic(),
                )
                break_it()
                until(lambda name=name, downs=downs: len(running.statuses("stream.down", name)) > downs, 30, "noticed")  # type: ignore[misc]
                noticed[name].append(time.monotonic() - began)
                shares.append(rate(running, "other", known) / (5 * (time.monotonic() - began)))
                repair()
                known = len(running.results(name))
                running.wait_for_results(known + 3, 60, name)
    for name, (words, *_) in faults.items():
        yield median_at_most(f"{words}: noticed in", 8, noticed[name])
    yield share_at_least("rate of another camera, the worst", 0.9, min(shares))


def soak(folder: Path, size: Size) -> Iterator[Row]:
    """a camera reconnects ten times a minute for a long time."""
    clip = write_clip(folder / "clip.mp4", pictures=100, size=(160, 120))
    server = RtspServer(clip)
    camera = {"source": server.url, "tasks": CAMERA["tasks"]}
    seconds, seen = size.of(60, 1200, 4 * 3600), list[Footprint]()
    with server, agent(folder, {"gate": camera, "other": CAMERA}) as running:
        running.wait_for_results(3, START_S, "gate")
        began = time.monotonic()
        while (cycle := time.monotonic()) < began + seconds:
            server.kill()
            time.sleep(1)
            server.start()
            time.sleep(max(0.0, cycle + 6 - time.monotonic()))
            seen.append(footprint(running))
        minutes, ups = (time.monotonic() - began) / 60, len(running.statuses("stream.up", "gate")) - 1
        third = len(seen) // 3
        middle, last = seen[third : 2 * third], seen[2 * third :]
        for name in last[-1].memory:
            grown = _memory(last, name) - _memory(middle, name)
            yield at_most(f"memory of {name} grown by", 2, grown / 2**20, " MB")
        yield at_least("reconnections in a minute", 9.5, ups / minutes)
        yield from flat(middle[0], last[-1])


def _memory(seen: list[Footprint], name: str) -> float:
    return statistics.median(one.memory[name] for one in seen)
