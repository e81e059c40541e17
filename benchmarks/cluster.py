"""Simulation of 10,000 cameras on 200 hosts: `python -m benchmarks.cluster`.

The placement is the real code (`streamer/cluster/placement.py`); hosts, cameras and seconds are simulated. `storms`
takes a twentieth of the hosts away at once, several times. `upgrade` drains all hosts in turn. `bytes` measures JPEG
pictures of drawn scenes with the noise of a camera. Counts do not depend on the load of this computer; times do.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.report import write
from streamer.capture.encoding import encode_image
from streamer.cluster.placement import MAX_MOVED, Host, Placed, Stream, place
from streamer.toyworld.world import World

CAMERAS, HOSTS, SITES = 10_000, 200, 10
COSTS = (0.005, 0.03)
"""Device seconds per second of a camera, uniformly distributed. The mean fills 88 % of the hosts."""
BOUND = 0.3
"""Share of the cameras that only hosts of one site can run."""
LOST_SHARE = 0.05
STORMS = 20
BATCH_SHARE = 0.02
"""Share of the hosts that are upgraded at a time, one at least."""
BALANCE = 50
"""Largest number of moves for balance in one call."""
NOTICED_S = 3.0
"""Assumed: silence after which a host counts as lost."""
LEASE_S = 6.0
"""Assumed: the lease of a lost host must end before another one may run its streams."""
STARTS_PER_S = 2.0
"""Assumed: streams that a host can start per second."""
FIRST_ANSWER_S = 3.0
"""Assumed: from the start of a stream to its first answer; `memory.json` has 2.9 s for a whole agent."""
TARGET_S, TARGET_MOVED = 60.0, MAX_MOVED
NOISE = 6.0
"""Standard deviation of the noise of the pictures, in levels of 255: a camera by daylight."""


def make_hosts(count: int, sites: int) -> list[Host]:
    return [Host(f"host{number:03}", 1.0, {"site": f"site{number % sites}"}) for number in range(count)]


def make_streams(count: int, sites: int, draw: random.Random) -> list[Stream]:
    return [
        Stream(
            f"camera{number:05}",
            draw.uniform(*COSTS),
            {"site": f"site{draw.randrange(sites)}"} if draw.random() < BOUND else {},
        )
        for number in range(count)
    ]


def moved(before: Mapping[str, str], after: Placed, among: Iterable[str]) -> int:
    """Return how many of these streams have another host, or none."""
    return sum(before[name] != after.host_of.get(name) for name in among)


def fullest(placed: Placed, streams: Sequence[Stream], hosts: Sequence[Host]) -> float:
    """Return the largest share of a capacity that is used."""
    used: Counter[str] = Counter()
    for stream in streams:
        if stream.name in placed.host_of:
            used[placed.host_of[stream.name]] += stream.cost  # type: ignore[assignment]  # a Counter adds floats too
    return max(used[host.name] / host.capacity for host in hosts)


def storms(hosts: Sequence[Host], streams: Sequence[Stream], number: int, draw: random.Random) -> dict[str, Any]:
    """Lose hosts at once, `number` times, each time from a full set, and place their streams."""
    first = place(hosts, streams, {})
    worst: Counter[str] = Counter()
    seconds, share, longest = 0.0, 0.0, 0.0
    for _ in range(number):
        lost = {host.name for host in draw.sample(hosts, max(1, round(LOST_SHARE * len(hosts))))}
        left = [host for host in hosts if host.name not in lost]
        began = time.perf_counter()
        after = place(left, streams, first.host_of)
        longest = max(longest, time.perf_counter() - began)
        gone = [name for name, host in first.host_of.items() if host in lost]
        others = [name for name, host in first.host_of.items() if host not in lost]
        starts = Counter(after.host_of[name] for name in gone if name in after.host_of)
        answers = NOTICED_S + LEASE_S + math.ceil(max(starts.values()) / STARTS_PER_S) + FIRST_ANSWER_S
        worst["streams without a host"] = max(worst["streams without a host"], len(after.waiting))
        worst["streams of lost hosts"] = max(worst["streams of lost hosts"], len(gone))
        worst["others moved"] = max(worst["others moved"], moved(first.host_of, after, others))
        seconds, share = max(seconds, answers), max(share, fullest(after, streams, left))
    others_share = worst["others moved"] / len(streams)
    return {
        "storms": number,
        "hosts lost at once": max(1, round(LOST_SHARE * len(hosts))),
        **{f"{name}, at most": count for name, count in sorted(worst.items())},
        "seconds until all answer, at most": seconds,
        "fullest host, at most": round(share, 4),
        "longest placement s (measured under load)": round(longest, 3),
        "target met": not worst["streams without a host"]
        and seconds <= TARGET_S
        and others_share <= TARGET_MOVED
        and share <= 1 + 1e-6,
    }


def upgrade(hosts: Sequence[Host], streams: Sequence[Stream]) -> dict[str, Any]:
    """Drain all hosts in turn, some at a time; each is empty before it is replaced."""
    batch = max(1, round(BATCH_SHARE * len(hosts)))
    placed = place(hosts, streams, {})
    moves, not_empty, without, others, share = 0, 0, 0, 0.0, 0.0
    for start in range(0, len(hosts), batch):
        out = {host.name for host in hosts[start : start + batch]}
        table = [replace(host, state="draining") if host.name in out else host for host in hosts]
        after = place(table, streams, placed.host_of)
        moves += moved(placed.host_of, after, placed.host_of)
        rest = [name for name, host in placed.host_of.items() if host not in out]
        others = max(others, moved(placed.host_of, after, rest) / len(rest))
        not_empty += len(out & set(after.host_of.values()))
        without += len(streams) - len(after.host_of)
        share = max(share, fullest(after, streams, table))
        placed = after
    balancing = 0
    while True:
        after = place(hosts, streams, placed.host_of, balance=BALANCE)
        if after.host_of == placed.host_of:
            break
        balancing, placed = balancing + moved(placed.host_of, after, placed.host_of), after
    return {
        "hosts at a time": batch,
        "moves": moves,
        "share of the other streams that moves, at most": round(others, 4),
        "hosts that were not empty": not_empty,
        "streams without a host": without,
        "fullest host, at most": round(share, 4),
        "moves for balance afterwards": balancing,
        "target met": not (not_empty or without) and others <= TARGET_MOVED and share <= 1 + 1e-6,
    }


def picture_bytes() -> dict[str, Any]:
    """Return the bytes of JPEG pictures by size and quality."""
    noise = np.random.default_rng(1)
    found: dict[str, Any] = {"noise": NOISE, "worlds": 4}
    for width, height in ((1280, 720), (1920, 1080)):
        pictures = []
        for seed in range(4):
            clean = World(seed).scene(1.0).paint(width, height).astype(np.float32)
            pictures.append(np.clip(clean + noise.normal(0, NOISE, clean.shape), 0, 255).astype(np.uint8))
        for quality in (50, 75, 90):
            sizes = [len(encode_image(picture, quality)) for picture in pictures]
            found[f"{width}x{height}, quality {quality}"] = round(sum(sizes) / len(sizes))
    return found


def simulate(cameras: int, hosts: int, number: int) -> dict[str, Any]:
    draw = random.Random(1)
    table, streams = make_hosts(hosts, SITES), make_streams(cameras, SITES, draw)
    return {
        "cameras": cameras,
        "hosts": hosts,
        "share of the capacity that is needed": round(sum(stream.cost for stream in streams) / hosts, 4),
        "storms": storms(table, streams, number, draw),
        "upgrade": upgrade(table, streams),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=CAMERAS)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--storms", type=int, default=STORMS)
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results/cluster.json")
    given = parser.parse_args()
    result = {**simulate(given.cameras, given.hosts, given.storms), "bytes of a picture": picture_bytes()}
    for key, value in result.items():
        print(f"{key}: {value}")
    if given.write:
        write("cluster", result)


if __name__ == "__main__":
    main()
