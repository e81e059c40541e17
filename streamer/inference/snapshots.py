"""Makes snapshots in a thread of its own. The frame stays in its buffer until then, because its job is not finished."""

from __future__ import annotations

import hashlib
import os
import queue
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from streamer.core.closing import Closing
from streamer.core.errors import SnapshotError
from streamer.core.jpeg import encode_jpeg
from streamer.core.reasons import reason_of
from streamer.events.result_data import Snapshot
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.events.snapshots.settings import Snapshots
from streamer.types import Frame

MAX_WAIT_S = 1.0
"""Longest time that an event waits for its snapshot: a disk may hang."""


@dataclass(slots=True, eq=False)
class SnapshotOrder:
    """A snapshot that is being made."""

    frame: Frame
    event: str
    """Id of the result's event."""
    until: float
    """Monotonic second at which the event is sent without it."""
    snapshot: Snapshot | None = None
    """Set when it is made."""
    problem: str | None = None
    """Reason in words why it cannot be made."""
    is_done: bool = False
    """Set last: the thread does not look at the frame any more."""
    given_up: threading.Event = field(default_factory=threading.Event)
    """Set by the owner of the frame: its buffer may get another one."""


class SnapshotMaker(Closing):
    """The thread. It starts with the first order."""

    def __init__(self, state: Path, settings: Snapshots, most: int) -> None:
        """`most`: number of orders that wait at once, so of frames that stay in their buffers."""
        self._folder, self._settings, self._most = SnapshotFolder(state), settings, most
        self._orders: queue.SimpleQueue[SnapshotOrder | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when an order is done."""

    def close(self) -> None:
        """End the thread, unless it waits for a disk: then it ends with the process."""
        self._orders.put(None)
        if self._thread is not None:
            self._thread.join(MAX_WAIT_S)
            if self._thread.is_alive():
                return
        os.close(self.ready_fd)

    def order(self, frame: Frame, event: str) -> SnapshotOrder | None:
        """Have a snapshot of a frame made; return None if too many wait. Never blocks."""
        if self._orders.qsize() >= self._most:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
            self._thread.start()
        order = SnapshotOrder(frame, event, time.monotonic() + MAX_WAIT_S)
        self._orders.put(order)
        return order

    def clear_ready(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.ready_fd)

    def wait(self, seconds: float) -> bool:
        """Wait until an order is done; return False after `seconds`."""
        return bool(select.select([self.ready_fd], [], [], max(0.0, seconds))[0])

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._make(order)
            except Exception as error:  # a full disk, a frame that cannot be encoded: the event goes without it
                order.problem = reason_of(error, "snapshots")
            order.is_done = True
            os.eventfd_write(self.ready_fd, 1)

    def _make(self, order: SnapshotOrder) -> None:
        if order.given_up.is_set():
            return
        frame, settings = order.frame, self._settings
        jpeg = encode_jpeg(frame.image, settings.quality, settings.width)
        if jpeg is None:
            raise SnapshotError("the frame is too large for a JPEG")
        if order.given_up.is_set():
            return
        self._folder.write(frame.stream, order.event, jpeg.content)
        digest = hashlib.sha256(jpeg.content).hexdigest()
        order.snapshot = Snapshot(sha256=digest, bytes=len(jpeg.content), width=jpeg.width, height=jpeg.height)
