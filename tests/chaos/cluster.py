"""Faults of a cluster: three hosts with twelve streams, and Ray's head on a fourth one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import combinations, pairwise
from pathlib import Path

from streamer.cluster.controller import provisional_s
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery
from tests.chaos.bench import Row, Size, at_most, holes, is_so
from tests.chaos.sites import HEAD, Site
from tests.support.agents import until

BOXES = ("boxa", "boxb", "boxc")
EVERY_S, LEASE_S, STREAMS = 1.0, 6.0, tuple(f"cam{number}" for number in range(12))
CAMERA = {"source": "synthetic?fps=5&size=160x120", "tasks": [{"task": "caption", "every": f"{EVERY_S:g}s"}]}
PAUSE_S = 5 * EVERY_S
"""A host that gave no answer for this long did not run the stream in between."""
Answer = tuple[float, str, int]
"""Unix second at which the frame was captured, host, and lease epoch."""


def cluster(folder: Path, size: Size) -> Iterator[Row]:
    """a host of a cluster of three dies, one is cut off, one is drained, and Ray's head is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = dict.fromkeys(STREAMS, CAMERA)
    with Site(folder, BOXES, streams, {"lease": f"{LEASE_S:g}s"}) as site:
        for name in (HEAD, *BOXES):
            site.start_ray(name)
        done = site.command("run", str(site.config))
        assert done.returncode == 0, done.stdout
        _wait_for_answers(site, time.time(), 90)
        yield from _drained(site)
        yield from _head_killed(site, size.of(5, 30, 300))
        yield from _cut_off(site, size.of(10, 30, 60))
        yield from _killed(site)
        done = site.command("stop")
        yield is_so("`streamer cluster stop` ends all agents", done.returncode == 0, _last_line(done.stdout))
        yield at_most("holes in the sequences of a host", 0, max(holes(site.events(name)) for name in BOXES))
        yield at_most("longest time of a stream on two hosts", provisional_s(LEASE_S), _longest_double(site), " s")


def cluster_with_redis(folder: Path, size: Size) -> Iterator[Row]:
    """Ray's head of a cluster of three hosts is killed and comes back; its state is in Redis."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = dict.fromkeys(STREAMS, CAMERA)
    with Site(folder, BOXES, streams, {"lease": f"{LEASE_S:g}s"}, has_redis=True) as site:
        for name in (HEAD, *BOXES):
            site.start_ray(name)
        done = site.command("run", str(site.config))
        assert done.returncode == 0, done.stdout
        _wait_for_answers(site, time.time(), 90)
        downs, began = _count_downs(site), time.time()
        site.kill(HEAD, "ray")
        time.sleep(size.of(5, 30, 30))
        back = time.time()
        site.start_ray(HEAD)
        _wait_until_complete(site)
        yield is_so("control is back by itself", True, f"{time.time() - back:.0f} s after the start of the head")
        yield at_most("longest gap since the kill", 2 * EVERY_S, _longest_gap(site, began, time.time() - 1), " s")
        yield at_most("cameras that stopped", 0, _count_downs(site) - downs)
        done = site.command("drain", BOXES[0])
        yield is_so("drained", done.returncode == 0, _last_line(done.stdout))
        done = site.command("stop")
        yield is_so("`streamer cluster stop` ends all agents", done.returncode == 0, _last_line(done.stdout))


def _last_line(text: str) -> str:
    """Return the last line; warnings of Ray may stand before it."""
    return text.strip().rpartition("\n")[2]


def _wait_until_complete(site: Site) -> None:
    """Wait until `streamer cluster status` shows every host in reach and every stream on one."""

    def is_complete() -> bool:
        status = site.command("status")
        return status.returncode == 0 and "out of reach" not in status.stdout

    until(is_complete, 300, "a cluster with all its hosts and streams")


def _count_downs(site: Site) -> int:
    return sum(event["subject"] == "stream.down" for name in BOXES for event in site.events(name))


def _answers(site: Site) -> dict[str, list[Answer]]:
    """Return the answers by stream, in the order of their frames."""
    found: dict[str, list[Answer]] = {stream: [] for stream in STREAMS}
    for name in BOXES:
        for event in site.results(name):
            if event["data"]["outcome"] == "ok":
                second = datetime.fromisoformat(event["time"]).timestamp()
                found[event["data"]["stream"]].append((second, name, event["data"]["lease"]))
    return {stream: sorted(answers) for stream, answers in found.items()}


def _wait_for_answers(site: Site, since: float, timeout: float, without: str = "") -> float:
    """Wait until every stream has an answer to a frame after `since`; return the seconds to the last of the first ones.

    `without`: answers of this host do not count.
    """

    def firsts() -> list[float]:
        good = {
            stream: [second for second, name, _ in answers if second > since and name != without]
            for stream, answers in _answers(site).items()
        }
        return [min(seconds) for seconds in good.values()] if all(good.values()) else []

    logs = "; ".join(site.log(name)[-500:] for name in BOXES)
    return max(until(firsts, timeout, f"answers of all streams; logs: {logs}")) - since


def _longest_gap(site: Site, since: float, end: float) -> float:
    """Return the longest time without an answer of a stream between two seconds."""
    gaps = []
    for answers in _answers(site).values():
        times = [since, *(second for second, *_ in answers if since < second < end), end]
        gaps.append(max(later - earlier for earlier, later in pairwise(times)))
    return max(gaps)


def _longest_double(site: Site) -> float:
    """Return the longest time for which two hosts gave answers to frames of one stream at once."""
    longest = 0.0
    for answers in _answers(site).values():
        periods: list[tuple[float, float, str]] = []
        for name in BOXES:
            seconds = [second for second, host, _ in answers if host == name]
            ends = [number for number, (one, other) in enumerate(pairwise(seconds)) if other - one > PAUSE_S]
            begins = [0, *(number + 1 for number in ends)] if seconds else []
            for first, last in zip(begins, [*ends, len(seconds) - 1], strict=False):
                periods.append((seconds[first], seconds[last], name))
        for (begin, end, name), (other_begin, other_end, other) in combinations(periods, 2):
            if name != other:
                longest = max(longest, min(end, other_end) - max(begin, other_begin))
    return longest


def _drained(site: Site) -> Iterator[Row]:
    began = time.time()
    done = site.command("drain", BOXES[0])
    yield is_so("drained", done.returncode == 0, f"in {time.time() - began:.0f} s")
    time.sleep(3 * EVERY_S)
    yield at_most(
        "longest gap of a stream while drained", 2 * EVERY_S, _longest_gap(site, began, time.time() - 1), " s"
    )
    assert site.command("drain", BOXES[0], "--back").returncode == 0


def _head_killed(site: Site, seconds: float) -> Iterator[Row]:
    downs, began = _count_downs(site), time.time()
    site.kill(HEAD)
    time.sleep(seconds)
    end = time.time()
    yield at_most(
        f"longest gap while the head is gone for {seconds:.0f} s", 2 * EVERY_S, _longest_gap(site, began, end - 1), " s"
    )
    yield at_most("cameras that stopped", 0, _count_downs(site) - downs)
    site.wait_for_end(HEAD)
    back = time.time()
    for name in BOXES:
        site.kill(name, "ray")  # as their services do when Ray has lost its head
    for name in (HEAD, *BOXES):
        site.start_ray(name)
    done = site.command("run", str(site.config))
    how = f"{time.time() - back:.0f} s after the head"
    yield is_so("control is back", done.returncode == 0, how if done.returncode == 0 else done.stdout.strip()[-600:])
    yield at_most("longest gap meanwhile", 2 * EVERY_S, _longest_gap(site, back, time.time() - 1), " s")


def _cut_off(site: Site, seconds: float) -> Iterator[Row]:
    name = BOXES[2]
    site.set_link(name, up=False)
    began = time.time()
    took = _wait_for_answers(site, began, 60, without=name)
    yield at_most("answers elsewhere after a host is cut off", 15, took, " s")
    time.sleep(max(0.0, began + seconds - time.time()))
    last = max(
        (second for answers in _answers(site).values() for second, host, _ in answers if host == name), default=0
    )
    yield at_most("last answer of the host that is cut off", LEASE_S, last - began, " s")
    site.set_link(name, up=True)
    back = time.time()
    site.kill(name, "ray")  # it ends by itself when its head has given it up
    site.start_ray(name)
    _wait_until_complete(site)
    yield is_so("the host is in the cluster again", True, f"{time.time() - back:.0f} s after the end of the cut")


def _killed(site: Site) -> Iterator[Row]:
    name = BOXES[1]
    began = time.time()
    site.set_link(name, up=False)
    site.kill(name)
    took = _wait_for_answers(site, began, 60, without=name)
    yield at_most("answers elsewhere after a host is killed", 15, took, " s")
    ledger = LedgerQuery(site.state(name) / LEDGER_FILE)
    accepted = [entry.body for entry in ledger.after(0, 1_000_000).entries]
    ledger.close()
    site.wait_for_end(name)
    site.set_link(name, up=True)
    site.start_ray(name)
    ids = {json.loads(body)["id"] for body in accepted}
    until(lambda: ids <= {event["id"] for event in site.events(name)}, 90, f"accepted events; log: {site.log(name)}")
    yield is_so(f"all {len(ids)} events of its ledger are delivered when it is back", True)
