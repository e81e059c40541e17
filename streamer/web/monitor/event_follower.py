"""Follow the ledger: wake those who wait for events, and keep the newest result and status of everything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamer.bus.rpc import device_of
from streamer.core.errors import WireError
from streamer.core.logs import RareLog
from streamer.events.ledger.query import Entry, LedgerQuery
from streamer.events.part import unix_time
from streamer.events.schema import ResultEvent, StatusEvent, decode
from streamer.types import Priority

log = logging.getLogger(__name__)

POLL_S = 0.2
BATCH = 500
"""Events per read."""
LOOK_BACK = 5000
"""Events read at the start to find the newest of every task."""
RATE_ANSWERS = 12
"""Answers of a task from which its rate is measured."""
MAX_OBJECTS = 20
"""Objects of a stream whose descriptions are kept: those that were described last."""
MAX_TOKENS = 1 << 30
"""Draft tokens of one answer; an event that claims more is wrong and not counted."""

Event = dict[str, Any]
TaskId = tuple[str, str]
"""Stream and task name."""


class EventFollower:
    """Reads the ledger in `run`, in a thread and on a connection that no other reader uses.

    An event that this version cannot read, or whose time is not a time, is passed over and counted in the log.
    """

    def __init__(self, query: LedgerQuery, running: Collection[str] | None = None, since: float = 0.0) -> None:
        """`running`: streams that the agent runs at unix second `since`; None: all."""
        self._query = query
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._unreadable = RareLog(log, "unreadable event %d passed over, position %d: %s")
        self._running, self._running_since = running, since
        self.started = time.time()
        """Unix second at which this process started."""
        self.results: dict[TaskId, Event] = {}
        """Newest result by task. One that is `unchanged` has the answer that still holds."""
        self.objects: defaultdict[str, dict[int, ResultEvent]] = defaultdict(dict)
        """Newest follow-up with a text about each object of the newest connection, by stream and track id; the oldest
        first."""
        self.states: dict[str, Event] = {}
        """Newest status event by stream."""
        self.workers: dict[str | None, Event] = {}
        """Newest status event about the inference processes of each device, by the first one's target."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Number of results since this process started, by stream, task name and outcome."""
        self._removed: dict[tuple[str, str], float] = {}
        """Unix seconds at which tasks were removed, by stream and task name."""
        self.drafts: defaultdict[TaskId, Counter[str]] = defaultdict(Counter)
        """Number of draft tokens since this process started, `checked`, `right` and `near`, by task."""
        self.snapshots: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Number and bytes of the snapshots made since this process started, `files` and `bytes`, by stream."""
        self.answer_times: defaultdict[TaskId, deque[float]] = defaultdict(lambda: deque(maxlen=RATE_ANSWERS))
        """Capture times (unix seconds) of the newest answers, by task."""
        self._stretches: dict[str | None, dict[str, dict[Priority, float]]] = {}
        """`stretch` as it was reported last for each device, by the target as in `workers`."""
        self.answered: float | None = None
        """Monotonic second of the last answer, including the canary's; None: none since this process started."""
        self.position = 0
        self.changed = asyncio.Event()
        """Set with the next event of any kind and by `close`, then replaced by a new one."""
        self.closed = False

    @property
    def stretch(self) -> dict[str, dict[Priority, float]]:
        """Factor by which overload control stretches intervals, by stream and priority; missing means 1."""
        return {stream: factors for found in self._stretches.values() for stream, factors in found.items()}

    def runs(self, stream: str) -> bool:
        """Return whether the agent runs this stream of its config."""
        return self._running is None or stream in self._running

    async def run(self) -> None:
        """Read new events until `close`."""
        loop = asyncio.get_running_loop()
        head = await loop.run_in_executor(self._thread, self._query.head)
        self.position = max(0, head - LOOK_BACK)
        while not self.closed:
            page = await loop.run_in_executor(self._thread, self._query.after, self.position, BATCH)
            for entry in page.entries:
                self._record(entry, is_new=entry.position > head)
            self.position = page.position
            if page.entries:
                self._notify()
            if len(page.entries) < BATCH:
                await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End `run`, and wake those who wait for `changed`."""
        self.closed = True
        self._thread.shutdown(wait=False)
        self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _record(self, entry: Entry, is_new: bool) -> None:
        try:
            event = decode(entry.body)
            at = unix_time(event.time)
        except (WireError, ValueError, OverflowError) as error:
            self._unreadable.add(entry.position, error)
            return
        if isinstance(event, ResultEvent):
            self._record_result(event, at, is_new)
        elif isinstance(event, StatusEvent):
            self._record_status(event, at, is_new)

    def _record_status(self, event: StatusEvent, at: float, is_new: bool) -> None:
        data, subject = event.data, event.subject
        if subject == "agent.canary":
            self._record_answer(is_new)
        elif subject == "streams.changed":
            if at >= self._running_since and data.streams is not None:
                self._running = data.streams
        elif subject.startswith("schedule."):
            self._stretches[_device_of(data.worker)] = dict(data.stretch or {})
        elif subject.startswith("task."):
            if data.state == "removed" and data.stream is not None and data.task is not None:
                self._forget(data.stream, data.task)
                self._removed[data.stream, data.task] = at
        elif data.worker is not None and data.worker.partition(":")[0] == "infer":
            self.workers[_device_of(data.worker)] = event.model_dump(mode="json")
            # A new inference process starts with the configured intervals.
            self._stretches.pop(_device_of(data.worker), None)
        elif data.stream is not None and subject.startswith("stream."):
            self.states[data.stream] = event.model_dump(mode="json")
            if data.state in ("stopped", "ended", "moved"):
                for found in self._stretches.values():
                    found.pop(data.stream, None)

    def _record_result(self, event: ResultEvent, at: float, is_new: bool) -> None:
        data = event.data
        if data.parent is not None and data.parent.track is not None and data.result is not None and data.result.text:
            self._describe(event, data.parent.track)
        task = (data.stream, data.name)
        if at < self._removed.get(task, 0.0):  # its last answer is stored after its removal
            return
        newest = event.model_dump(mode="json")
        if data.outcome == "unchanged" and task in self.results:
            newest["data"]["result"] = self.results[task]["data"]["result"]
        self.results[task] = newest
        if data.outcome in ("ok", "empty"):
            self._record_answer(is_new)
            self.answer_times[task].append(at)
        self.counts[*task, data.outcome] += is_new
        if is_new and data.snapshot is not None:
            self.snapshots[data.stream].update(files=1, bytes=data.snapshot.bytes)
        checked, right = data.timing.draft or (0, 0)
        if is_new and 0 <= data.near <= right <= checked <= MAX_TOKENS:
            self.drafts[task].update(checked=checked, right=right, near=data.near)

    def _describe(self, event: ResultEvent, track: int) -> None:
        """Keep the text about an object. Track ids start again with a connection."""
        known = self.objects[event.data.stream]
        newest = max((other.data.epoch for other in known.values()), default=event.data.epoch)
        if event.data.epoch > newest:
            known.clear()
        if event.data.epoch >= newest:
            known.pop(track, None)
            known[track] = event
        while len(known) > MAX_OBJECTS:
            del known[next(iter(known))]

    def _record_answer(self, is_new: bool) -> None:
        if is_new:
            self.answered = time.monotonic()

    def _forget(self, stream: str, task: str) -> None:
        for by_task in (self.results, self.drafts, self.answer_times):
            by_task.pop((stream, task), None)
        for key in [key for key in self.counts if key[:2] == (stream, task)]:
            del self.counts[key]


def _device_of(worker: str | None) -> str | None:
    """Return the first target of the device of an inference process such as `infer:0b`; None: the only device."""
    return device_of((worker or "").partition(":")[2] or None)
