"""The inference process's ear: questions that are asked once, at once, and tasks that change while it runs.

A question is a task of its stream with one tick, now, that goes before everything else. Its answer goes to who asked
and nowhere else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer.bus.rpc import Asked, Desk, asks_socket
from streamer.config.changes import with_tasks
from streamer.config.model import Agent, Stream
from streamer.core.errors import ConfigError
from streamer.core.redact import redact
from streamer.events.schema import encode, result_event
from streamer.inference.policy import Policy
from streamer.inference.schedule import Now, Schedule
from streamer.types import Result

log = logging.getLogger(__name__)

PREFIX = "ask/"
"""Of the names of such tasks; no name in a config has a slash."""


@dataclass(frozen=True, slots=True)
class _Question:
    asked: Asked
    stream: str
    until: float


class Ear:
    """Hears what the parent sends, and answers questions."""

    def __init__(self, runtime: Path, agent: Agent, schedules: Mapping[str, Schedule], policy: Policy) -> None:
        self._agent, self._schedules, self._policy = agent, schedules, policy
        self._desk = Desk(asks_socket(runtime))
        self._questions: dict[str, _Question] = {}
        self._last = 0
        self.socket = self._desk.socket
        """To poll for reading; then call `receive`."""

    @property
    def streams(self) -> Mapping[str, Stream]:
        """With their tasks as they are now."""
        return self._agent.streams

    def close(self) -> None:
        self._desk.close()

    def receive(self, now: Now) -> set[str]:
        """Take note of everything that has arrived; the streams of which something else is wanted now."""
        touched = set()
        for asked in self._desk.receive():
            stream = str(asked.message.get("stream"))
            try:
                self._take(asked, stream, now)
            except ConfigError as error:
                self._desk.answer(asked, error=redact(str(error)))
            else:
                touched.add(stream)
        for name, question in list(self._questions.items()):
            if now.mono > question.until:
                del self._questions[name]
                self._schedules[question.stream].drop(name)
        return touched

    def answer(self, result: Result, model: str) -> bool:
        """Tell who asked; False when it is the answer of no question."""
        due = result.job.due
        if not due.name.startswith(PREFIX):
            return False
        question = self._questions.pop(due.name, None)
        if question is not None:
            event = result_event(self._agent.agent, result, model, getattr(due.params, "quality", ""))
            age = time.monotonic() - result.job.frame.captured_mono
            self._desk.answer(question.asked, event=json.loads(encode(event)), age_s=round(age, 3))
        return True

    def _take(self, asked: Asked, stream: str, now: Now) -> None:
        if stream not in self._policy.schedules:
            raise ConfigError(f"the stream `{stream}` has ended")
        schedule = self._schedules[stream]
        if asked.message["op"] == "tasks":
            self._agent = with_tasks(self._agent, stream, asked.message["tasks"])
            schedule.replace(self._agent.streams[stream].active, now)
            self._policy.changed(stream, now)
            return
        self._last += 1
        name = f"{PREFIX}{self._last}"
        (task,) = with_tasks(self._agent, stream, [asked.message["task"]]).streams[stream].tasks
        self._questions[name] = _Question(asked, stream, now.mono + asked.message["seconds"])
        schedule.ask(task, name)
        self._policy.changed(stream, now)
