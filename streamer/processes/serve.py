"""The serve process: gives frames of this agent's live streams to other hosts that ask for them.

It is the only process that other hosts reach for frames. It holds the secret key of this host, and no camera.
"""

from __future__ import annotations

import logging
import resource
import time

import zmq

from streamer.bus.curve import CurveServer
from streamer.bus.event_channel import EventClient
from streamer.bus.host_keys import HostKeys
from streamer.bus.remote_protocol import MAX_ASK_BYTES
from streamer.capture.remote_server import Link, RemoteServer
from streamer.core.backoff import ReportRate
from streamer.core.closing import Closing
from streamer.core.errors import ProcessBroken
from streamer.core.logs import RareLog
from streamer.events.build import peer_event
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker

log = logging.getLogger(__name__)

TICK_MS = 250
"""Longest sleep of the main loop."""
MAX_DESCRIPTORS = 1024
"""Open files: a flood of connections takes at most so many, and about 50 MB of memory."""
FLUSH_S = 0.5
"""Longest wait for the acknowledgement of the last events."""


def run(worker: Worker) -> None:
    """Serve until asked to stop. Raises ConfigError if the key or the address cannot be used."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_DESCRIPTORS, hard), hard))
    with Serve(worker) as serve:
        worker.report(ReportKind.READY)
        while not worker.stopping:
            serve.poll_once()
        serve.stop()


class Serve(Closing):
    """The served socket and its events; a context manager."""

    def __init__(self, worker: Worker) -> None:
        assert worker.config.serve is not None
        self._worker, bind = worker, worker.config.serve.bind
        live = [name for name, stream in worker.config.streams.items() if stream.source.pace == "live"]
        self.curve = CurveServer(HostKeys(), bind.host, bind.port, MAX_ASK_BYTES)
        self._server = RemoteServer(worker.runtime, live, self.curve, self._on_change)
        self._events = EventClient(worker.runtime, "serve")
        self._refused = 0
        self._last_refusal = ""
        self._refusals = RareLog(log, "connection of another host %d refused: %s")
        self._refusal_rate = ReportRate()
        self._poller = zmq.Poller()
        for readable in (*self._server.sockets(), self._events.socket, worker.stop_fd):
            self._poller.register(readable, zmq.POLLIN)
        log.info("frames served at %s port %d", bind.host, self.curve.port)

    def close(self) -> None:
        self._events.close()
        self._server.close()

    def poll_once(self) -> None:
        """Sleep until something arrives, then answer requests and report changes."""
        self._worker.heartbeat.beat()
        self._poller.poll(TICK_MS)
        if self.curve.is_key_replaced():
            raise ProcessBroken("this host has a new key")
        self._server.handle()
        self._report_refusals()
        self._events.receive()
        self._events.resend()

    def stop(self) -> None:
        """End all links, and wait until their events are accepted."""
        self._server.end_links()
        self._events.flush(FLUSH_S)

    def _on_change(self, link: Link, state: str) -> None:
        """Report that another host asks for a stream, or does so no longer."""
        counts = link.counts() if state == "down" else None
        log.info("host %s %s, stream %s, frames: %s", link.peer, state, link.stream, counts)
        self._events.send(peer_event(self._worker.config.name, state, link.peer, link.stream, None, counts), None)

    def _report_refusals(self) -> None:
        """Report refused connections: each in the log's rare way, as events at a falling rate."""
        for reason in self._server.take_refusals():
            self._refusals.add(reason)
            self._refused, self._last_refusal = self._refused + 1, reason
            self._refusal_rate.on_change()
        if self._refusal_rate.take(time.monotonic()):
            count, self._refused = self._refused, 0
            reason = self._last_refusal if count == 1 else f"{count} times, the last one: {self._last_refusal}"
            self._events.send(peer_event(self._worker.config.name, "refused", None, None, reason), None)
