"""Keeps the snapshots that incidents name and deletes the others. It belongs to the rules process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from streamer.core.errors import SnapshotError
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.events.schema import IncidentEvent
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.events.snapshots.settings import Snapshots
from streamer.events.snapshots.sweep import sweep

log = logging.getLogger(__name__)

SWEEP_S = 15.0
"""Interval at which snapshots are deleted."""
PAUSE_S = 0.01
"""Pauses of a sweep, in which the rules get the processor."""
RENEW_S = 60.0
"""Interval at which the age of what open incidents need begins again; shorter than `UNUSED_S`."""


class SnapshotKeeper:
    """The snapshots of incidents. Its own thread deletes."""

    def __init__(self, state: Path, settings: Snapshots) -> None:
        self._folder, self._settings = SnapshotFolder(state), settings
        self._renewed: float | None = None
        self._renew_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._not_kept = RareLog(log, "%s of incidents not kept, stream %s: %s", noun="snapshot")
        self._not_deleted = RareLog(log, "snapshots cannot be deleted, try %d: %s", logging.ERROR)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def keep(self, incident: IncidentEvent) -> None:
        """Keep the snapshot that an incident event names. Call it before the event is sent."""
        best = incident.data.best
        if best.snapshot is None:
            return
        try:
            self._folder.keep(incident.data.stream, best.event)
        except (OSError, SnapshotError) as error:
            self._not_kept.add(incident.data.stream, reason_of(error, "snapshots"))

    @property
    def renewal_due(self) -> bool:
        return time.monotonic() >= self._renew_at

    def renew(self, needed: Iterable[tuple[str, str]]) -> None:
        """Let the age of these snapshots begin again: stream and event id of all that later incidents may name.

        Call it only when all events so far are read.
        """
        self._renew_at = time.monotonic() + RENEW_S
        for stream, event in needed:
            with suppress(OSError, SnapshotError):  # it is gone
                self._folder.renew(stream, event)
        self._renewed = time.time()

    def _run(self) -> None:
        while True:
            try:
                sweep(self._folder, self._settings, time.time(), self._renewed, lambda: self._stop.wait(PAUSE_S))
            except Exception as error:  # whatever is in the folder, the rules go on
                self._not_deleted.add(reason_of(error, "snapshots"))
            if self._stop.wait(SWEEP_S):
                return
