"""The thread that stores collected pictures, and deletes old ones."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from streamer.config.collect import DAY_S, Collect
from streamer.core.closing import Closing
from streamer.core.errors import SnapshotError
from streamer.core.jpeg import encode_jpeg
from streamer.core.logs import RareLog
from streamer.core.picture_blocks import PictureBlocks, SeenPictures, from_text, to_text
from streamer.core.reasons import reason_of
from streamer.events.collected import CollectedFolder
from streamer.events.snapshots.settings import Snapshots
from streamer.types import Image
from streamer.types.dataset import CollectedPicture

log = logging.getLogger(__name__)

MAX_WAITING = 4
"""Pictures that wait for the disk."""
SWEEP_S = 600.0
"""Interval at which old pictures are deleted."""
CLOSE_S = 2.0
"""Longest wait for the disk when the process ends."""


class Order(NamedTuple):
    """A picture to store."""

    stream: str
    event: str
    """Id of an event about its frame, the name of the file."""
    image: Image
    picture: CollectedPicture


class CollectStore(Closing):
    """Reads what is stored, then stores pictures in the order in which they are put."""

    def __init__(
        self,
        folder: CollectedFolder,
        limits: Mapping[str, Collect],
        snapshots: Snapshots,
        on_loaded: Callable[[str, Sequence[float], SeenPictures], None],
    ) -> None:
        """`limits`: by stream. `on_loaded` gets a stream, the times of the pictures that count for its limits, and all
        of its pictures; it is called in the thread."""
        self._folder, self._limits, self._snapshots, self._on_loaded = folder, limits, snapshots, on_loaded
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._failed = RareLog(log, "%s not stored, stream %s: %s", noun="collected picture")
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Return whether a further picture would have to wait too long for the disk."""
        return self._orders.qsize() >= MAX_WAITING

    def put(self, order: Order, blocks: PictureBlocks) -> None:
        """Have a picture stored. Never blocks."""
        record = replace(order.picture.record, blocks=to_text(blocks))
        self._orders.put(order._replace(picture=replace(order.picture, record=record)))

    def close(self) -> None:
        """Store what waits, unless the disk hangs: then the thread ends with the process."""
        self._orders.put(None)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        for stream in self._limits:
            self._load(stream)
        sweep_at = 0.0
        while True:
            if time.monotonic() >= sweep_at:
                self._sweep()
                sweep_at = time.monotonic() + SWEEP_S
            try:
                order = self._orders.get(timeout=max(0.0, sweep_at - time.monotonic()))
            except queue.Empty:
                continue
            if order is None:
                return
            try:
                self._write(order)
            except Exception as error:  # a full disk, a frame that cannot be encoded: the next one is tried
                self._failed.add(order.stream, reason_of(error, "collect"))

    def _load(self, stream: str) -> None:
        kept, times, now = list[PictureBlocks](), list[float](), time.time()
        for stored in self._folder.stored(stream):
            if (blocks := from_text(stored.picture.record.blocks)) is not None:
                kept.append(blocks)
            if stored.stored_at > now - DAY_S and not stored.picture.is_feedback:
                times.append(stored.stored_at)
        self._on_loaded(stream, sorted(times), SeenPictures(kept))

    def _write(self, order: Order) -> None:
        jpeg = encode_jpeg(order.image, self._snapshots.quality, self._snapshots.width)
        if jpeg is None:
            raise SnapshotError("the frame is too large for a JPEG")
        record = replace(order.picture.record, sha256=hashlib.sha256(jpeg.content).hexdigest())
        self._folder.write(order.stream, order.event, replace(order.picture, record=record), jpeg.content)

    def _sweep(self) -> None:
        for stream, limits in self._limits.items():
            self._folder.sweep(stream, limits.keep, limits.max_bytes, time.time())
