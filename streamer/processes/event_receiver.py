"""Receives events in the emit process, commits them to the ledger in groups, and acknowledges them."""

from __future__ import annotations

import logging
import time

import apsw

from streamer.bus.event_channel import EventServer
from streamer.events.ledger import Ledger
from streamer.events.schema import StatusEvent, accepted
from streamer.events.sink_threads import SinkThreads
from streamer.processes.heartbeat import Heartbeat

log = logging.getLogger(__name__)

GROUP = 128
"""Maximum number of events in one commit, so that it takes a few milliseconds."""
COMMIT_S = 60.0
"""Maximum seconds of one commit: a disk under load may take so long."""
PROBE_S = 5.0
"""Seconds without a commit after which an empty one is made, so that a failing disk is noticed without events."""


class EventReceiver:
    """Moves events from the socket into the ledger. Events that arrive during a commit are the next group."""

    def __init__(self, server: EventServer, ledger: Ledger, sinks: SinkThreads, heartbeat: Heartbeat) -> None:
        self._server, self._ledger, self._sinks, self._heartbeat = server, ledger, sinks, heartbeat
        self._uncommitted: list[StatusEvent] = []  # of the sinks
        self._disk_full = False
        self._committed_at = -PROBE_S

    def commit_pending(self) -> None:
        """Commit what has arrived and acknowledge it.

        On a full disk nothing is acknowledged: clients keep their events, send them again, and infer makes no new
        results once its window is full.
        """
        arrived = self._server.receive(GROUP)
        now = time.monotonic()
        self._uncommitted = (self._uncommitted + self._sinks.status_events())[-GROUP:]
        if not (arrived or self._uncommitted or self._ledger.losses_due or now - self._committed_at >= PROBE_S):
            return
        ages = [None if one.captured_mono is None else now - one.captured_mono for one in arrived]
        events = [accepted(one.event, age) for one, age in zip(arrived, ages, strict=True)]
        self._heartbeat.beat("batch", COMMIT_S)
        try:
            added = self._ledger.commit([*events, *self._uncommitted])
        except apsw.FullError:
            self._committed_at = now
            self._set_disk_full(True)
            return
        self._set_disk_full(False)
        self._uncommitted = []
        self._server.ack(arrived)
        self._committed_at = time.monotonic()
        self._heartbeat.mark_commit(self._committed_at)
        if added:
            self._sinks.wake()

    def _set_disk_full(self, full: bool) -> None:
        if full and not self._disk_full:
            log.error("the disk of the ledger is full: no events are accepted until there is space")
        elif self._disk_full and not full:
            log.info("the disk of the ledger has space again: events are accepted")
        self._disk_full = full
