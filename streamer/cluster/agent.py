"""The agent of a host: the ordinary `streamer run`, which the host process starts, finds again and watches."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

from streamer.bus.commands import RunStreams
from streamer.bus.rpc import RpcClient, control_socket
from streamer.cluster.controller import Order
from streamer.core.backoff import Backoff
from streamer.core.closing import Closing
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.core.paths import LOCK, find_running, state_folder
from streamer.events.ledger import LEDGER_FILE
from streamer.events.ledger.query import LedgerQuery

log = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.5, 30.0
"""Pauses between two starts of an agent that ends."""
STOP_S = 12.0
"""Longest wait for the end of the agent; it takes up to 10 s."""
_READ_EVENTS = 1000
"""Events that are looked at in one step for the first answers of streams."""


class Agent(Protocol):
    """The agent as the host process uses it."""

    problem: str | None
    """Reason why it cannot run any stream."""
    leaving: frozenset[str]
    """Streams that it gives up, whose processes have not ended yet."""

    def step(self, now: float) -> None:
        """Start it if it is not there; handle what it has answered. Never blocks."""

    def run(self, order: Order, until: float | None) -> None:
        """Run these streams until then, None: until the next order."""

    def answering(self) -> frozenset[str]:
        """Return the streams of the order that have answered since they were started."""

    def stop(self) -> None:
        """End it."""


class AgentProcess(Closing):
    """An agent that outlives this process. Not thread-safe."""

    def __init__(self, name: str, command: list[str]) -> None:
        """`name`: of the agent. `command`: arguments of `streamer` that start it."""
        self.problem: str | None = None
        self.leaving: frozenset[str] = frozenset()
        self._name, self._command = name, [sys.executable, "-m", "streamer.cli", *command]
        self._child: subprocess.Popen[bytes] | None = None
        self._client: RpcClient | None = None
        self._awaited: int | None = None
        """The last message, while it has no answer."""
        self._runtime: Path | None = None
        self._backoff, self._start_at = Backoff(FIRST_DELAY_S, MAX_DELAY_S), 0.0
        self._ledger = LedgerQuery(state_folder(name) / LEDGER_FILE)
        self._position: int | None = None
        self._streams: frozenset[str] = frozenset()
        self._answered: set[str] = set()

    def close(self) -> None:
        self._ledger.close()
        self._disconnect()

    def step(self, now: float) -> None:
        if self._child is not None and (code := self._child.poll()) is not None:
            self._child = None
            self._on_exit(code, now)
        runtime = self._find()
        if runtime != self._runtime:
            self._disconnect()
            self._runtime = runtime
            if runtime is not None:
                log.info("agent %s runs", self._name)
                self._client = RpcClient(control_socket(runtime))
        if runtime is None and self._child is None and now >= self._start_at:
            self._start(now)
        for reply in self._client.receive() if self._client else ():
            self._awaited = None if reply["id"] == self._awaited else self._awaited
            if error := reply.get("error"):
                log.error("agent %s refuses its streams: %s", self._name, error)
                self.problem = f"its agent refuses its streams: {error}"
            else:
                self.problem, self.leaving = None, frozenset(reply.get("leaving", ()))

    def run(self, order: Order, until: float | None) -> None:
        if added := order.streams - self._streams:
            self._answered -= added
            self._position = self._ledger.head()
        self._streams = order.streams
        if self._client is not None:
            if self._awaited is not None:
                self._client.drop_unsent()  # a message that waits would later give a lease that is over by then
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            lease_s, since = (None, None) if until is None else (until - now, now)
            names = sorted(order.streams)
            command = RunStreams(names=names, by="cluster", epoch=order.epoch, lease_s=lease_s, since=since)
            self._awaited = self._client.send(**command.message())

    def answering(self) -> frozenset[str]:
        self._answered &= self._streams
        if self._position is not None and self._answered < self._streams:
            page = self._ledger.after(self._position, _READ_EVENTS)
            self._position = page.position
            for entry in page.entries:
                data = json.loads(entry.body)["data"]
                if data.get("outcome") in ("ok", "empty"):  # of a result, no other event has it
                    self._answered.add(data["stream"])
        return frozenset(self._answered & self._streams)

    def stop(self) -> None:
        """End the agent and wait for that, also one that another process has started."""
        if self._find() is None and self._child is None:
            return
        process = self._child.pid if self._child is not None else self._process_id()
        deadline = time.monotonic() + STOP_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process is None or not self._is_running():
                break
            os.kill(process, number)
            while self._is_running() and time.monotonic() < deadline:
                time.sleep(0.05)
            deadline += 1

    def _is_running(self) -> bool:
        return self._child.poll() is None if self._child is not None else self._find() is not None

    def _find(self) -> Path | None:
        try:
            return find_running(self._name)[1]
        except ConfigError:
            return None

    def _process_id(self) -> int | None:
        try:
            return int((state_folder(self._name) / LOCK).read_text().partition("\n")[0])
        except (OSError, ValueError):
            return None

    def _start(self, now: float) -> None:
        log.info("agent %s starts", self._name)
        self._start_at = now + self._backoff.next_delay()
        self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _on_exit(self, code: int, now: float) -> None:
        if code == EXIT_CONFIG:
            self.problem = "its agent has an error in its config: see the log of the host"
        self._start_at = now + self._backoff.next_delay()
        log.warning("agent %s ended (exit code %d), restarting in %.1f s", self._name, code, self._start_at - now)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client, self._awaited = None, None


class NoAgent:
    """The agent of a host that only votes."""

    problem: str | None = None
    leaving: frozenset[str] = frozenset()

    def step(self, now: float) -> None:
        pass

    def run(self, order: Order, until: float | None) -> None:
        pass

    def answering(self) -> frozenset[str]:
        return frozenset()

    def stop(self) -> None:
        pass
