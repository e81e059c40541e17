"""Faults of NATS, Redis and Kafka: servers that are killed and frozen while events flow."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamer.bus.event_channel import EventClient
from tests.chaos.bench import Row, Size, at_most, holes, median_at_most
from tests.support.agents import until
from tests.support.emit_process import EmitProcess
from tests.support.sample_events import event
from tests.support.server_process import KafkaCluster, NatsServer, RedisServer, ServerProcess

EVENTS_PER_STEP, STEP_S = 5, 0.05
ALL_S = 120.0
KINDS: dict[str, tuple[type[ServerProcess], dict[str, Any], int]] = {
    "nats": (NatsServer, {"stream": "EVENTS", "create": True}, 0),  # the duplicate window leaves out all of them
    "redis": (RedisServer, {}, 20),
    "redis, skip_repeated": (RedisServer, {"skip_repeated": True}, 0),
    "kafka": (KafkaCluster, {}, 100),
}
"""Server, keys of the sink, and the largest number of events that may come twice after each fault."""


def brokers_killed(folder: Path, size: Size) -> Iterator[Row]:
    """NATS and Redis are killed (kill -9) and frozen, Kafka's mock is frozen, emit is killed, while events flow."""
    for number, (words, (make, keys, window)) in enumerate(KINDS.items()):
        place = folder / str(number)
        (place / "run").mkdir(parents=True)
        with make(place) as server:
            yield from _faults(words, server, keys, window, size.of(2, 12, 100))


def _faults(words: str, server: ServerProcess, keys: dict[str, Any], window: int, rounds: int) -> Iterator[Row]:
    rng = random.Random(1)
    sink = {"kind": words.partition(",")[0], "url": server.url, "timeout": "1s", **keys}  # type: ignore[attr-defined]
    returns: list[float] = []
    with EmitProcess(server.folder, [sink]) as emit, Feeder(emit) as feeder:
        emit.wait_for("ready")
        for number in range(rounds):
            feeder.feed(rng.uniform(0.2, 1.0))
            if number % 3 == 2:
                emit.kill()
                emit.start()
            elif number % 3 == 1 and not isinstance(server, KafkaCluster):
                server.kill()
                feeder.feed(rng.uniform(0.2, 2.0))
                server.start()
            else:
                server.freeze(True)
                feeder.feed(rng.uniform(0.2, 2.0))
                server.freeze(False)
            began = time.monotonic()
            wanted = set(feeder.accepted)
            until(lambda wanted=wanted: wanted <= _ids(server), ALL_S, "all that was accepted arrives")  # type: ignore[misc]
            returns.append(time.monotonic() - began)
        feeder.feed(0.2)
        with suppress(AssertionError):
            until(lambda: feeder.accepted <= _ids(server), ALL_S, "the last ones")
        emit.stop()
    received = [one for one in server.events() if one["type"] == "streamer.result.v1"]
    times = Counter(one["id"] for one in received)
    first_seen = list(dict.fromkeys(one["data"]["frame"]["seq"] for one in received))
    yield at_most(f"{words}: events lost, of {len(feeder.accepted)}", 0, len(feeder.accepted - set(times)))
    yield at_most(f"{words}: came twice, {rounds} faults", rounds * window, sum(times.values()) - len(times))
    yield at_most(f"{words}: holes in the sequences", 0, holes(received))
    yield at_most(f"{words}: out of order", 0, sum(a > b for a, b in itertools.pairwise(first_seen)))
    yield median_at_most(f"{words}: all delivered after", 10, returns)


def _ids(server: ServerProcess) -> set[str]:
    return {one["id"] for one in server.events()}


class Feeder:
    """Sends events at a steady rate, to an emit process that may be killed meanwhile; a context manager."""

    def __init__(self, emit: EmitProcess) -> None:
        self.accepted: set[str] = set()
        self._sent = 0
        self._client = EventClient(emit.runtime, "chaos")

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def feed(self, seconds: float) -> None:
        """Send for so long, and wait until emit has accepted all."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(EVENTS_PER_STEP):
                self._sent += 1
                self._client.send(event(seq=self._sent), None)
            self._receive(STEP_S)
        while self._client.unacked:
            self._receive(0.02)
            self._client.resend()

    def _receive(self, seconds: float) -> None:
        self._client.socket.poll(round(seconds * 1000))
        self.accepted.update(self._client.receive())
