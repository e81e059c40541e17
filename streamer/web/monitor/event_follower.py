"""Follow the ledger: wake clients that wait for events, and keep the newest result and status of everything."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from streamer.events.ledger.query import Entry, Filter, LedgerQuery

POLL_S = 0.2
BATCH = 500
"""Events per read."""
LOOK_BACK = 5000
"""Events read at the start to find the newest of every task."""
RATE_ANSWERS = 12
"""Answers of a task from which its rate is measured."""

Event = dict[str, Any]
TaskId = tuple[str, str]
"""Stream and task name."""


class EventFollower:
    """Reads the ledger in the event loop, in `run`."""

    def __init__(self, query: LedgerQuery) -> None:
        self.query = query
        self.started = time.time()
        """Unix second at which this process started."""
        self.results: dict[TaskId, Event] = {}
        """Newest result by task."""
        self.states: dict[str, Event] = {}
        """Newest status event by stream."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Number of results since this process started, by stream, task name and outcome."""
        self.drafts: defaultdict[TaskId, Counter[str]] = defaultdict(Counter)
        """Number of draft tokens since this process started, `checked` and `right`, by task."""
        self.answer_times: defaultdict[TaskId, deque[float]] = defaultdict(lambda: deque(maxlen=RATE_ANSWERS))
        """Capture times (unix seconds) of the newest answers, by task."""
        self.stretch: dict[str, dict[str, float]] = {}
        """Factor by which overload control stretches intervals, by stream and priority; missing means 1."""
        self.answered: float | None = None
        """Monotonic second of the last answer, including the canary's; None: none since this process started."""
        self.position = 0
        self._changed = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Read new events until `close`."""
        head = await asyncio.to_thread(self.query.head)
        self.position = max(0, head - LOOK_BACK)
        while not self._closed:
            page = await asyncio.to_thread(self.query.after, self.position, BATCH)
            for entry in page.entries:
                self._record(entry, is_new=entry.position > head)
            self.position = page.position
            if page.entries:
                self._notify()
            if len(page.entries) < BATCH:
                await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End `run` and every `follow`."""
        self._closed = True
        self._notify()

    async def follow(self, after: int, matching: Filter, keep_alive: float) -> AsyncIterator[Entry | None]:
        """Yield matching events after a position until `close`, and None after `keep_alive` seconds without one."""
        while not self._closed:
            changed = self._changed
            page = await asyncio.to_thread(self.query.after, after, BATCH, matching)
            for entry in page.entries:
                yield entry
            after = page.position
            if page.entries:
                continue
            try:
                await asyncio.wait_for(changed.wait(), keep_alive)
            except TimeoutError:
                yield None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _record(self, entry: Entry, is_new: bool) -> None:
        with suppress(KeyError):  # an event of another version: it is served, but not evaluated
            event = json.loads(entry.body)
            data, subject = event["data"], event["subject"]
            if event["type"] == "streamer.result.v1":
                self._record_result(event, is_new)
            elif subject == "agent.canary":
                self._record_answer(is_new)
            elif subject.startswith("schedule."):
                self.stretch = data["stretch"]
            elif subject.startswith("task."):
                if data["state"] == "removed":
                    self._forget(data["stream"], data["task"])
            elif data.get("worker") == "infer":
                self.stretch = {}  # a new inference process starts with the configured intervals
            elif data["stream"] is not None and subject.startswith("stream."):
                self.states[data["stream"]] = event
                if data["state"] in ("stopped", "ended"):
                    self.stretch.pop(data["stream"], None)

    def _record_result(self, event: Event, is_new: bool) -> None:
        data = event["data"]
        task = (data["stream"], data["name"])
        self.results[task] = event
        if data["outcome"] in ("ok", "empty"):
            self._record_answer(is_new)
            self.answer_times[task].append(datetime.fromisoformat(event["time"]).timestamp())
        self.counts[*task, data["outcome"]] += is_new
        if is_new and (draft := data["timing"].get("draft")):
            self.drafts[task].update(checked=draft[0], right=draft[1])

    def _record_answer(self, is_new: bool) -> None:
        if is_new:
            self.answered = time.monotonic()

    def _forget(self, stream: str, task: str) -> None:
        for by_task in (self.results, self.drafts, self.answer_times):
            by_task.pop((stream, task), None)
        for key in [key for key in self.counts if key[:2] == (stream, task)]:
            del self.counts[key]
