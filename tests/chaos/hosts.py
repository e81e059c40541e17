"""Faults of the link between two hosts, while the model of one uses a camera of the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from streamer.bus.host_keys import HostKeys
from streamer.capture.sources._remote_source import LATE_S
from tests.chaos.bench import (
    START_S,
    Row,
    Size,
    Skipped,
    agent,
    at_most,
    flat,
    footprint,
    is_so,
    median_at_most,
    share_at_least,
)
from tests.chaos.link import Link
from tests.chaos.namespaces import A, Hosts
from tests.support.agents import RunningAgent, assert_identity, until
from tests.support.ports import free_port

EVERY_S = 0.2
PORT = 5600
TOLERANCE_MB = 8
"""More memory than this after the reconnections is a leak: 27 kB for each of 300."""


def link_between_hosts(folder: Path, size: Size) -> Iterator[Row]:
    """the link to the host with the camera is cut, half open for up to 30 s, or loses 5 % of the packets."""
    boxa, boxb = folder / "a", folder / "b"
    _exchange_keys(boxa, boxb)
    camera = {"yard": {"source": "synthetic?fps=25&size=320x240"}}
    source = {"kind": "remote", "url": f"streamer://{A}:{PORT}/yard", "peer": "boxa"}
    tasks = [{"task": "caption", "every": f"{EVERY_S:g}s"}]
    with Hosts() as hosts:
        with hosts.inside("a"):
            serving = agent(boxa, camera, config={"agent": "boxa", "serve": {"bind": f"0.0.0.0:{PORT}"}})
        with serving:
            with hosts.inside("b"):
                asking = agent(boxb, {"yard": {"source": source, "tasks": tasks}}, config={"agent": "boxb"})
            with asking:
                asking.wait_for_results(5, START_S)
                yield from _cuts(hosts, asking, size)
                yield from _lossy(hosts, asking, size)
                asking.stop()
            until(lambda: serving.statuses("peer.down"), 20, "the end of the link")
            serving.stop()
        yield _identity(asking, serving)


def link_broken_often(folder: Path, size: Size) -> Iterator[Row]:
    """the link to the host with the camera breaks off and is back at once, up to 300 times."""
    boxa, boxb, port = folder / "a", folder / "b", free_port()
    _exchange_keys(boxa, boxb)
    camera = {"yard": {"source": "synthetic?fps=25&size=320x240"}}
    tasks = [{"task": "caption", "every": f"{EVERY_S:g}s"}]
    served = {"agent": "boxa", "serve": {"bind": f"127.0.0.1:{port}"}}
    with agent(boxa, camera, config=served) as serving, Link(port) as link:
        source = {"kind": "remote", "url": f"streamer://127.0.0.1:{link.port}/yard", "peer": "boxa"}
        with agent(boxb, {"yard": {"source": source, "tasks": tasks}}, config={"agent": "boxb"}) as asking:
            asking.wait_for_results(5, START_S)
            before = None
            for number in range(size.of(20, 100, 300)):
                if number == 10:  # first connections load libraries and fill pools
                    before = footprint(serving), footprint(asking)
                epoch = _newest_epoch(asking)
                link.break_off()
                # Not the event `stream.down`: a stream that is down often has few of them.
                until(lambda epoch=epoch: _newest_epoch(asking) > epoch, 60, "connected again")  # type: ignore[misc]
            assert before is not None
            after = footprint(serving), footprint(asking)
            for name, earlier, later in zip(("serving", "asking"), before, after, strict=True):
                yield from (replace(row, what=f"{name}: {row.what}") for row in flat(earlier, later))
                for process, taken in later.memory.items():
                    more = (taken - earlier.memory.get(process, 0)) / (1 << 20)
                    yield at_most(f"{name}: more memory, {process}", TOLERANCE_MB, more, " MB")
            asking.stop()
        until(lambda: serving.statuses("peer.down"), 20, "the end of the link")
        serving.stop()
    yield _identity(asking, serving)


def _identity(asking: RunningAgent, serving: RunningAgent) -> Row:
    """Raise AssertionError unless both have counted each frame."""
    for running, subject in ((asking, "stream.stopped"), (serving, "stream.stopped"), (serving, "peer.down")):
        for event in running.statuses(subject):
            assert_identity(event["data"]["frames"])
    return is_so("identity exact on both sides", True)


def _newest_epoch(running: RunningAgent) -> int:
    """Return the number of the connection of the last answer."""
    epoch: int = running.results()[-1]["data"]["epoch"]
    return epoch


def _exchange_keys(boxa: Path, boxb: Path) -> None:
    a, b = (HostKeys(folder / "state" / "streamer" / "host.keys") for folder in (boxa, boxb))
    a.allow("boxb", b.create().public.hex())
    b.allow("boxa", a.create().public.hex())


def _cuts(hosts: Hosts, asking: RunningAgent, size: Size) -> Iterator[Row]:
    back: dict[str, list[float]] = {"cut": [], "half open": []}
    oldest = 0.0
    for number in range(size.of(1, 3, 10)):
        for fault in back:
            downs = len(asking.statuses("stream.down"))
            (hosts.cut if fault == "cut" else hosts.block)()
            until(lambda downs=downs: len(asking.statuses("stream.down")) > downs, 20, "down")  # type: ignore[misc]
            time.sleep(size.of(1, 25 if number == 0 else 5, 25))
            known, began = len(asking.results()), time.monotonic()
            hosts.mend()
            asking.wait_for_results(known + 1, 60)
            back[fault].append(time.monotonic() - began)
            asking.wait_for_results(known + 10, 60)
            waited = [event["data"]["timing"]["waited_ms"] for event in asking.results()[known:]]
            oldest = max(oldest, *(one / 1000 for one in waited if one is not None))
    for fault, seconds in back.items():
        yield median_at_most(f"answers after the end of: {fault}", 2, seconds)
        yield at_most(f"longest, {fault}", 2, max(seconds), " s")
    yield at_most("oldest frame of an answer", 1, oldest, " s")


def _lossy(hosts: Hosts, asking: RunningAgent, size: Size) -> Iterator[Row]:
    what = "answers with 5 % of the packets lost"
    try:
        hosts.lose(5)
    except Skipped as why:
        yield Row(what, ">= 60%", str(why), None)
        return
    known, seconds = len(asking.results()), size.of(5, 30, 120)
    time.sleep(seconds)
    hosts.mend()
    answers, began = asking.results()[known:], time.monotonic()
    asking.wait_for_results(known + len(answers) + 1, 60)
    yield at_most("answers after the end of the loss", 2, time.monotonic() - began, " s")
    yield share_at_least(what, 0.6, len(answers) * EVERY_S / seconds)
    waited = [event["data"]["timing"]["waited_ms"] for event in answers]
    yield at_most("oldest frame of these", LATE_S + 0.5, max(one / 1000 for one in waited if one is not None), " s")
