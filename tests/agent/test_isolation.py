"""One bad sink harms only itself: all kinds at once in a real emit process, one of them broken in turn."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import zmq

import streamer
from streamer.bus.event_channel import EventClient
from streamer.events.schema import ResultEvent
from tests.support import hooks
from tests.support.agents import until
from tests.support.broker import Broker, Listener
from tests.support.emit_process import EmitProcess, lines
from tests.support.hooks import Endpoint
from tests.support.sample_events import event

KINDS = ("stdout", "jsonl", "zmq", "mqtt", "webhook")


class Everywhere:
    """All kinds of sinks, each with somebody at its other end; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._printed: list[int] = []
        self._published: list[int] = []
        self._reading = threading.Event()
        self._reading.set()

    def __enter__(self) -> Everywhere:
        enter = self._stack.enter_context
        (self._folder / "run").mkdir()
        (self._folder / "volume").mkdir()
        self._file = self._folder / "volume" / "events.jsonl"
        self._endpoint = enter(Endpoint())
        self._broker = enter(Broker(self._folder))
        self._listener = enter(Listener(self._broker.port))
        reader, writer = os.pipe()
        output = enter(os.fdopen(reader, "rb"))
        sinks: list[dict[str, Any]] = [
            {"kind": "stdout"},
            {"kind": "jsonl", "path": str(self._file)},
            {"kind": "zmq"},
            {"kind": "mqtt", "url": self._broker.url},
            {"kind": "webhook", "url": self._endpoint.url, "in_flight": 1, "timeout": 3},
        ]
        with os.fdopen(writer, "wb") as stdout:
            self.emit = enter(EmitProcess(self._folder, sinks, stdout=stdout))
        self.emit.wait_for("ready")
        for read in (lambda: self._read_output(output), self._subscribe):
            threading.Thread(target=read, daemon=True).start()
        self.client = enter(EventClient(self._folder / "run", "infer"))
        return self

    def __exit__(self, *_: object) -> None:
        self.repair()
        self._stack.close()

    def has(self, kind: str) -> Sequence[int]:
        """Numbers of the frames whose events have come out there."""
        match kind:
            case "stdout":
                return self._printed
            case "zmq":
                return self._published
            case "jsonl":
                found = lines(self._file)
            case "mqtt":
                found = self._listener.events()
            case _:
                found = list(self._endpoint.accepted)
        return [one["data"]["frame"]["seq"] for one in found if one["type"] == "streamer.result.v1"]

    def wait_for(self, kind: str, seq: int, seconds: float) -> None:
        until(lambda: seq in self.has(kind)[-200:], seconds, f"{seq} arrives at {kind}; log: {self.emit.log()}")

    def send(self, seqs: range) -> None:
        for seq in seqs:
            self.client.send(event(seq=seq), time.monotonic())
        assert self.client.flush(60)

    def spoil(self, kind: str) -> None:
        match kind:
            case "stdout":
                self._reading.clear()
            case "jsonl":
                self._file.parent.rename(self._folder / "gone")
            case "zmq":  # somebody who subscribes and never reads
                deaf: zmq.Socket[bytes] = self._stack.enter_context(zmq.Context.instance().socket(zmq.SUB))
                deaf.set(zmq.LINGER, 0)
                deaf.set(zmq.RCVHWM, 1)
                deaf.set(zmq.SUBSCRIBE, b"")
                deaf.connect(f"ipc://{self._folder}/run/bus.sock")
            case "mqtt":
                self._broker.freeze(True)
            case "webhook":
                self._endpoint.behaviour = hooks.never

    def repair(self) -> None:
        self._reading.set()
        if (self._folder / "gone").exists():
            (self._folder / "gone").rename(self._file.parent)
        self._broker.freeze(False)
        self._endpoint.behaviour = hooks.ok

    def _read_output(self, output: IO[bytes]) -> None:
        for line in output:
            self._reading.wait()
            one = json.loads(line)
            if one["type"] == "streamer.result.v1":
                self._printed.append(one["data"]["frame"]["seq"])

    def _subscribe(self) -> None:
        for one in streamer.subscribe(f"ipc://{self._folder}/run/bus.sock"):
            if isinstance(one, ResultEvent):
                self._published.append(one.data.frame.seq)


def test_a_broken_sink_harms_no_other(tmp_path: Path) -> None:
    with Everywhere(tmp_path) as everywhere:

        def all_heard() -> bool:
            everywhere.send(range(next(numbers), next(numbers)))
            return all(everywhere.has(kind) for kind in KINDS)

        numbers = itertools.count()
        until(all_heard, 20, f"all work at first: {everywhere.emit.log()}")
        healthy = [_seconds(everywhere, 100 + number, KINDS) for number in range(10)]
        for turn, broken in enumerate(KINDS, 1):
            others = [kind for kind in KINDS if kind != broken]
            everywhere.spoil(broken)
            first = 1000 * turn
            everywhere.send(range(first, first + 100))  # enough to fill a pipe
            for kind in others:
                everywhere.wait_for(kind, first + 99, 10)
            # The quickest: other programs may delay some, a sink that waits for the broken one is late with all.
            quickest = min(_seconds(everywhere, first + 100 + number, others) for number in range(5))
            for kind in others:
                assert set(range(first, first + 105)) <= set(everywhere.has(kind)), (broken, kind)
            assert quickest < max(1.0, 3 * max(healthy)), broken
            if broken != "zmq":
                assert first + 104 not in everywhere.has(broken)
            everywhere.repair()
            everywhere.wait_for(broken, first + 104, 30)
            missing = set(range(first, first + 105)) - set(everywhere.has(broken))
            assert not missing, broken


def _seconds(everywhere: Everywhere, seq: int, kinds: Sequence[str]) -> float:
    """From an event's making to its arrival everywhere."""
    started = time.monotonic()
    everywhere.send(range(seq, seq + 1))
    for kind in kinds:
        everywhere.wait_for(kind, seq, 10)
    return time.monotonic() - started
