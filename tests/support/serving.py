"""Serves the frames of a capture to other hosts, in a thread. Both hosts have the same key here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import zmq

from streamer.bus.curve import CurveServer
from streamer.bus.host_keys import HostKeys
from streamer.bus.remote_protocol import MAX_ASK_BYTES
from streamer.capture.remote_server import Link, RemoteServer
from streamer.events.schema import FrameCounts
from tests.support.agents import assert_identity
from tests.support.capturing import STREAM

PEER = "boxa"


def make_keys() -> None:
    """Make the key of this host, and let it know itself as `PEER`."""
    keys = HostKeys()
    keys.allow(PEER, keys.create().public.hex())


class Served:
    """The frames of the stream in `runtime`, served on a port of 127.0.0.1; a context manager."""

    def __init__(self, runtime: Path, port: int = 0) -> None:
        self._curve = CurveServer(HostKeys(), "127.0.0.1", port, MAX_ASK_BYTES)
        self.port = self._curve.port
        self.changes: list[tuple[str, FrameCounts]] = []
        """State and accounting of each change of a link."""
        self.refusals: list[str] = []
        self._over = threading.Event()
        self._server = RemoteServer(runtime, [STREAM], self._curve, self._on_change)
        self._thread = threading.Thread(target=self._run)

    def source(self, stream: str = STREAM, port: int | None = None, **keys: Any) -> dict[str, Any]:
        """Return the config of a source that asks for the frames."""
        return {"kind": "remote", "url": f"streamer://127.0.0.1:{port or self.port}/{stream}", "peer": PEER, **keys}

    def _on_change(self, link: Link, state: str) -> None:
        counts = link.counts()
        assert_identity(counts.model_dump())
        self.changes.append((state, counts))

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in self._server.sockets():
            poller.register(socket, zmq.POLLIN)
        while not self._over.is_set():
            poller.poll(20)
            self._server.handle()
            self.refusals += self._server.take_refusals()
        self._server.end_links()
        self._server.close()

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the links and close the socket."""
        self._over.set()
        self._thread.join()
