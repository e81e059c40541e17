"""Throughput of the sinks with a server: `python -m benchmarks.sinks`.

Each sink writes events in batches of the size that emit uses, to a real server on this computer (Kafka: the mock
cluster of librdkafka), and is done when all are acknowledged. `in_flight` has its default, and 256 in a second run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.ledger import make_event
from benchmarks.report import write
from streamer.events.schema import encode, numbered
from streamer.events.sink_threads import BATCH
from streamer.events.sinks import SinkField, SinkSettings
from tests.support.broker import Broker
from tests.support.server_process import KafkaCluster, NatsServer, RedisServer
from tests.support.sinks import RecordedProgress, sink_context

SERVERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "mqtt": (Broker, {}),
    "nats": (NatsServer, {"stream": "EVENTS", "create": True}),
    "kafka": (KafkaCluster, {}),
    "redis": (RedisServer, {}),
    "redis, skip_repeated": (RedisServer, {"skip_repeated": True}),
}


def events_per_s(words: str, keys: dict[str, Any], count: int, folder: Path) -> int:
    make, own = SERVERS[words]
    adapter: TypeAdapter[SinkSettings] = TypeAdapter(SinkField)
    events = [(number, encode(numbered(make_event(number), number))) for number in range(1, count + 1)]
    with make(folder) as server:
        settings = adapter.validate_python({"kind": words.partition(",")[0], "url": server.url, **own, **keys})
        progress = RecordedProgress()
        sink = settings.open(sink_context(folder), progress)
        sink.write(events[:BATCH])  # connects
        began = time.perf_counter()
        for first in range(BATCH, count, BATCH):
            sink.write(events[first : first + BATCH])
        seconds = time.perf_counter() - began
        sink.close()
    assert progress.position == count
    return round((count - BATCH) / seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sinks", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results/sinks.json")
    given = parser.parse_args()
    found: dict[str, dict[str, int]] = {}
    for words in SERVERS:
        found[words] = {}
        for name, keys in (("default", {}), ("in_flight 256", {"in_flight": BATCH})):
            with tempfile.TemporaryDirectory(prefix="sinks-") as folder:
                found[words][name] = events_per_s(words, keys, given.events, Path(folder))
        print(f"{words:<22} {found[words]} events/s", flush=True)
    if given.write:
        write("sinks", {"events": given.events, "events_per_s": found})


if __name__ == "__main__":
    main()
