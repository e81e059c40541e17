"""Results on their way to emit. One with a snapshot waits for it, and later ones of its stream wait behind it."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from streamer.bus.event_channel import EventClient
from streamer.core.backoff import Settling
from streamer.core.logs import RareLog
from streamer.events.build import snapshots_event
from streamer.events.schema import ResultEvent
from streamer.inference.snapshots import MAX_WAIT_S, SnapshotMaker, SnapshotOrder
from streamer.types import Frame

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    event: ResultEvent
    captured_mono: float
    order: SnapshotOrder | None
    """None: it only waits behind others."""

    def is_ready(self, now: float) -> bool:
        return self.order is None or self.order.is_done or now >= self.order.until

    def finished(self) -> ResultEvent:
        """Return the event with its snapshot, if there is one."""
        if self.order is None or self.order.snapshot is None:
            return self.event
        return self.event.model_copy(
            update={"data": self.event.data.model_copy(update={"snapshot": self.order.snapshot})}
        )


class Outbox:
    """Sends results in the order of each stream. Without snapshots it sends each at once."""

    def __init__(self, agent: str, events: EventClient, maker: SnapshotMaker | None, worker: str | None) -> None:
        """`maker`: None if there are no snapshots. `worker`: name of this process in events, if there are several."""
        self._agent, self._events, self._maker, self._worker = agent, events, maker, worker
        self._waiting: dict[str, deque[_Waiting]] = {}
        """Queues by stream; none is empty."""
        self._is_down = False
        """As reported."""
        self._settling = Settling()
        self._skipped = RareLog(log, "%s without snapshot: too many wait for theirs, stream %s", noun="result")

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def send(self, event: ResultEvent, frame: Frame, with_snapshot: bool) -> None:
        """Send a result, now or when its snapshot is made. `frame` must stay as it is until the event is acked."""
        stream, order = event.data.stream, None
        if with_snapshot and self._maker is not None:
            order = self._maker.order(frame, event.id)
            if order is None:
                self._skipped.add(stream)
        if order is None and stream not in self._waiting:
            self._events.send(event, frame.captured_mono)
            return
        self._waiting.setdefault(stream, deque()).append(_Waiting(event, frame.captured_mono, order))

    def send_ready(self, seconds: float = 0.0) -> None:
        """Send the results whose snapshots are made, or failed, or take too long. Wait for them at most `seconds`."""
        if self._maker is None or not self._waiting:
            return
        until = time.monotonic() + seconds
        while True:
            self._maker.clear_ready()
            self._send_ready(time.monotonic())
            if not (self._waiting and self._maker.wait(until - time.monotonic())):
                return

    def _send_ready(self, now: float) -> None:
        for stream, queue in list(self._waiting.items()):
            while queue and queue[0].is_ready(now):
                ready = queue.popleft()
                self._events.send(ready.finished(), ready.captured_mono)
                if ready.order is not None:
                    self._report(ready.order, now)
            if not queue:
                del self._waiting[stream]

    def _report(self, order: SnapshotOrder, now: float) -> None:
        """Publish a change between snapshots that fail and snapshots that are made."""
        order.given_up.set()
        if order.snapshot is not None:
            if self._is_down and self._settling.is_over(now):
                self._is_down = False
                log.info("snapshots are stored again")
                self._events.send(snapshots_event(self._agent, "up", None, self._worker), None)
            return
        self._settling.on_failure(now, is_reported=not self._is_down)
        if not self._is_down:
            self._is_down = True
            problem = order.problem or f"not stored within {MAX_WAIT_S:g} s"
            log.error("snapshots cannot be stored: %s; results are sent without them", problem)
            self._events.send(snapshots_event(self._agent, "down", problem, self._worker), None)
