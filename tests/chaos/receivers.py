"""Receiver faults: a broker that is down, a webhook endpoint that fails."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import numpy as np
import zmq

from streamer.bus.event_channel import EventClient
from tests.chaos.bench import CAMERA, START_S, Row, Size, agent, at_most, holes
from tests.support import hooks
from tests.support.agents import RunningAgent, until
from tests.support.broker import Broker, Listener
from tests.support.emit_process import EmitProcess
from tests.support.hooks import Endpoint
from tests.support.sample_events import event

IN_FLIGHT = 20


def broker_down(folder: Path, size: Size) -> Iterator[Row]:
    """an MQTT broker is down for two minutes, and the whole agent is killed (kill -9) meanwhile."""
    away = size.of(6, 120, 600)
    with Broker(folder) as broker, Listener(broker.port) as listener:
        config = {
            "sinks": [{"kind": "jsonl", "path": str(folder / "events.jsonl")}, {"kind": "mqtt", "url": broker.url}]
        }
        with agent(folder, {"gate": CAMERA}, config=config) as running:
            running.wait_for_results(10, START_S)
            until(lambda: len(listener.events()) >= 10, 20, "events at the broker")
            broker.stop()
            began = time.monotonic()
            time.sleep(away / 2)
            _kill_all(running)
        with agent(folder, {"gate": CAMERA}, config=config) as running:
            running.wait_for_results(len(running.results()) + 10, START_S)
            time.sleep(max(0.0, began + away - time.monotonic()))
            broker.start()
            back, accepted = time.monotonic(), len(_accepted(folder))
            until(lambda: len({one["id"] for one in _received(listener)}) >= accepted, 60, "all of it is delivered")
            seconds = time.monotonic() - back
            running.stop()
        ids = _accepted(folder)
        with suppress(AssertionError):
            until(lambda: ids <= {one["id"] for one in _received(listener)}, 10, "the last ones")
        received = _received(listener)
    times = Counter(one["id"] for one in received)
    yield at_most(f"accepted events lost, of {len(ids)}", 0, len(ids - set(times)))
    yield at_most("events that came twice", IN_FLIGHT, sum(count - 1 for count in times.values()))
    yield at_most("holes in the sequences", 0, holes(received))
    yield at_most(f"{accepted} delivered after its return in", 30, seconds, " s")


def _kill_all(running: RunningAgent) -> None:
    children = running.children().values()
    running.process.kill()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait()


def _accepted(folder: Path) -> set[str]:
    (ledger,) = folder.rglob("ledger.db")
    db = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
    db.set_busy_timeout(5000)
    try:
        return {str(key) for (key,) in db.execute("SELECT id FROM events")}
    finally:
        db.close()


def _received(listener: Listener) -> list[dict[str, str]]:
    return [json.loads(one.body) for one in list(listener.messages) if one.body.startswith(b'{"specversion"')]


BEHAVIOURS = {"500": hooks.status(500), "slow": hooks.slow(1), "never": hooks.never, "redirect": hooks.status(302)}


def webhook(folder: Path, size: Size) -> Iterator[Row]:
    """a webhook endpoint answers 500, or after a second, or never, or redirects."""
    folder.joinpath("run").mkdir()
    seconds, times = size.of(3, 8, 60), size.of(1, 3, 5)
    with Endpoint() as endpoint, Endpoint() as elsewhere:
        endpoint.headers["location"] = elsewhere.url
        sinks = [
            {"kind": "jsonl", "path": str(folder / "events.jsonl")},
            {"kind": "zmq"},
            {"kind": "webhook", "url": endpoint.url, "timeout": "2s"},
        ]
        with EmitProcess(folder, sinks) as emit, OtherSinks(emit.runtime, folder / "events.jsonl") as others:
            emit.wait_for("ready")
            others.feed(2)
            for words, behaviour in BEHAVIOURS.items():
                rounds: list[tuple[dict[str, float], dict[str, float]]] = []
                for _ in range(times):
                    endpoint.behaviour = hooks.ok
                    until(lambda: others.accepted <= _delivered(endpoint), 120, "all events are delivered")
                    well = others.feed(seconds)
                    endpoint.behaviour = behaviour
                    others.feed(1)
                    rounds.append((well, others.feed(seconds)))
                for sink in ("jsonl", "zmq"):
                    yield _more(f"{words}: {sink}, p99 more by", [(well[sink], ill[sink]) for well, ill in rounds])
            endpoint.behaviour = hooks.ok
            with suppress(AssertionError):
                until(lambda: others.accepted <= _delivered(endpoint), 120, "all events are delivered")
            lost = others.accepted - _delivered(endpoint)
        yield at_most(f"events lost, of {len(others.accepted)}", 0, len(lost))
        yield at_most("requests that followed the redirect", 0, len(elsewhere.requests))


def _delivered(endpoint: Endpoint) -> set[str]:
    return {one["id"] for one in endpoint.accepted}


def _more(what: str, rounds: list[tuple[float, float]]) -> Row:
    """Return a row for the median increase. A round: the p99 while the endpoint works, and while it fails."""
    more = float(np.median([ill / well - 1 for well, ill in rounds]))
    spread = ", ".join(f"{1000 * well:.1f} to {1000 * ill:.1f} ms" for well, ill in rounds)
    return Row(what, "<= 10%", f"{more:.0%} ({spread})", more <= 0.1)


class OtherSinks:
    """Sends events at a steady rate and measures their latency in the other sinks; a context manager."""

    RATE = 100

    def __init__(self, runtime: Path, file: Path) -> None:
        self.accepted: set[str] = set()
        self.sent = 0
        self._client = EventClient(runtime, "chaos")
        self._file = file
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.set(zmq.SUBSCRIBE, b"gate/")
        self._socket.set(zmq.RCVHWM, 100_000)
        self._socket.connect(f"ipc://{runtime}/bus.sock")
        self._arrived: dict[str, dict[str, float]] = {"jsonl": {}, "zmq": {}}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._follow_file, self._subscribe)]

    def __enter__(self) -> OtherSinks:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._client.close()

    def feed(self, seconds: float) -> dict[str, float]:
        """Return the p99 of the seconds from sending an event to its arrival, by sink."""
        began, sent = time.monotonic(), dict[str, float]()
        for number in range(int(seconds * self.RATE)):
            while (left := began + number / self.RATE - time.monotonic()) > 0:
                self._client.socket.poll(math.ceil(left * 1000))
                self.accepted.update(self._client.receive())
            self.sent += 1
            one = event(seq=self.sent)
            sent[one.id] = time.monotonic()
            self._client.send(one, None)
        while self._client.unacked:
            self._client.socket.poll(20)
            self.accepted.update(self._client.receive())
            self._client.resend()
        until(
            lambda: all(sent.keys() <= found.keys() for found in self._arrived.values()), 20, "the other sinks have all"
        )
        return {
            sink: float(np.percentile([found[key] - at for key, at in sent.items()], 99))
            for sink, found in self._arrived.items()
        }

    def _follow_file(self) -> None:
        rest = b""
        until(self._file.exists, 30, "the file is there")
        with self._file.open("rb") as file:
            while not self._over.wait(0.001):
                *lines, rest = (rest + file.read()).split(b"\n")
                now = time.monotonic()
                self._arrived["jsonl"].update((json.loads(line)["id"], now) for line in lines)

    def _subscribe(self) -> None:
        while not self._over.is_set():
            if self._socket.poll(100):
                _, body = self._socket.recv_multipart()
                self._arrived["zmq"][json.loads(body)["id"]] = time.monotonic()
