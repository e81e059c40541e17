"""Host processes in threads, with a stand-in for the agent."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from streamer.bus.host_keys import HostKeys
from streamer.bus.rpc import request
from streamer.cluster.controller import Order
from streamer.cluster.host import SOCKET, HostProcess
from streamer.config.cluster import Cluster

ALONE = Cluster.model_validate({"hosts": {"a": {"address": "127.0.0.1"}}, "lease": "3s"})


class FakeAgent:
    """Remembers what it was told to run."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.runs: frozenset[str] = frozenset()
        self.until: float | None = 0.0
        self.leaving: frozenset[str] = frozenset()
        self.stopped = False

    def step(self, now: float) -> None:
        pass

    def run(self, order: Order, until: float | None) -> None:
        self.runs, self.until = order.streams, until

    def answering(self) -> frozenset[str]:
        return self.runs

    def stop(self) -> None:
        self.stopped = True


class RunningHost:
    """A host process in a thread."""

    def __init__(self, folder: Path, name: str, cluster: Cluster, at: Path | None = None) -> None:
        self.agent, self.folder = FakeAgent(), at or folder / name
        keys = HostKeys(folder / f"{name}.keys")
        self.process = HostProcess(name, cluster, "mark", 1.0, self.folder, self.agent, keys)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.process.serve()
        self.process.close()

    def __enter__(self) -> RunningHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
        self._thread.join()

    def call(self, **message: Any) -> dict[str, Any]:
        return request(self.folder / SOCKET, message, 60)

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call(op="report")["report"]
        return found
