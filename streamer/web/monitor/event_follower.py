"""Follows the ledger: wakes who waits for events, and knows the newest of every task and stream."""

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
LOOK_BACK = 5000
"""Events read at the start, to know the newest of every task."""
RECENT = 12
"""Answers of a task from which its rate is taken."""

Event = dict[str, Any]


class EventFollower:
    """Lives in the event loop; `run` is its life."""

    def __init__(self, book: LedgerQuery) -> None:
        self.query = book
        self.started = time.time()
        """Unix second at which this process began."""
        self.results: dict[tuple[str, str], Event] = {}
        """The newest result by stream and task name."""
        self.states: dict[str, Event] = {}
        """The newest status by stream."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Results since this process began, by stream, task name and outcome."""
        self.drafts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        """Tokens of drafts since then, `checked` and `right`, by stream and task name."""
        self.recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        """Unix seconds of the frames of a task's newest answers, by stream and task name."""
        self.stretch: dict[str, dict[str, float]] = {}
        """How many times longer than configured intervals are, by stream and priority; 1 where nothing is said."""
        self.answered: float | None = None
        """Monotonic second at which an answer, or the canary's, last came out; None: not since this process began."""
        self.changes = 0
        """Changes of tasks that were seen."""
        self.position = 0
        self._news = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Until `close`."""
        head = await asyncio.to_thread(self.query.head)
        self.position = max(0, head - LOOK_BACK)
        while not self._over:
            page = await asyncio.to_thread(self.query.after, self.position, BATCH)
            for entry in page.entries:
                self._note(entry, counted=entry.position > head)
            self.position = page.position
            if page.entries:
                self._wake()
            if len(page.entries) < BATCH:
                await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End `run`, and everyone who follows."""
        self._over = True
        self._wake()

    async def follow(self, after: int, wanted: Filter, quiet_s: float) -> AsyncIterator[Entry | None]:
        """Wanted events after a position, for ever; None whenever there was none for `quiet_s`."""
        while not self._over:
            news = self._news
            page = await asyncio.to_thread(self.query.after, after, BATCH, wanted)
            for entry in page.entries:
                yield entry
            after = page.position
            if page.entries:
                continue
            try:
                await asyncio.wait_for(news.wait(), quiet_s)
            except TimeoutError:
                yield None

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _note(self, entry: Entry, counted: bool) -> None:
        with suppress(KeyError):  # written by another version: it is shown, but nothing is concluded from it
            event = json.loads(entry.body)
            data = event["data"]
            if event["type"] == "streamer.result.v1":
                self.results[data["stream"], data["name"]] = event
                is_answer = data["outcome"] in ("ok", "empty")
                self._hear(counted and is_answer)
                if is_answer:
                    when = datetime.fromisoformat(event["time"]).timestamp()
                    self.recent[data["stream"], data["name"]].append(when)
                self.counts[data["stream"], data["name"], data["outcome"]] += counted
                if counted and (draft := data["timing"].get("draft")):
                    self.drafts[data["stream"], data["name"]].update(checked=draft[0], right=draft[1])
            elif event["subject"] == "agent.canary":
                self._hear(counted)
            elif event["subject"].startswith("schedule."):
                self.stretch = data["stretch"]
            elif event["subject"].startswith("task."):
                self.changes += 1
                if data["state"] == "removed":
                    self._forget(data["stream"], data["task"])
            elif data.get("worker") == "infer":
                self.stretch = {}  # a new one begins with the configured intervals
            elif data["stream"] is not None and event["subject"].startswith("stream."):
                self.states[data["stream"]] = event
                if data["state"] in ("stopped", "ended"):
                    self.stretch.pop(data["stream"], None)

    def _forget(self, stream: str, task: str) -> None:
        for known in (self.results, self.drafts, self.recent):
            known.pop((stream, task), None)
        for key in [key for key in self.counts if key[:2] == (stream, task)]:
            del self.counts[key]

    def _hear(self, is_answer: bool) -> None:
        if is_answer:
            self.answered = time.monotonic()
