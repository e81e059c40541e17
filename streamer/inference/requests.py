"""The inference process's ear: questions that are asked once, at once, and tasks that change while it runs.

A question is a task of its stream with one tick, now, that goes before everything else. Its answer goes to who asked
and nowhere else.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.bus.rpc import Request, RpcServer, infer_socket
from streamer.config.changes import with_tasks
from streamer.config.model import Config, Stream
from streamer.core.errors import ConfigError
from streamer.events.build import result_event
from streamer.events.schema import encode
from streamer.inference.policy import Policy
from streamer.inference.schedule import Now, Schedule
from streamer.types import Result

log = logging.getLogger(__name__)

PREFIX = "ask/"
"""Of the names of such tasks; no name in a config has a slash."""


@dataclass(frozen=True, slots=True)
class _Pending:
    request: Request
    stream: str
    until: float


class RequestHandler:
    """Hears what the parent sends, and answers questions."""

    def __init__(self, runtime: Path, config: Config, schedules: Mapping[str, Schedule], policy: Policy) -> None:
        self._agent, self._schedules, self._policy = config, schedules, policy
        self._server = RpcServer(infer_socket(runtime))
        self._pending: dict[str, _Pending] = {}
        self._last = 0
        self.socket = self._server.socket
        """To poll for reading; then call `receive`."""

    @property
    def streams(self) -> Mapping[str, Stream]:
        """With their tasks as they are now."""
        return self._agent.streams

    def close(self) -> None:
        self._server.close()

    def receive(self, now: Now) -> set[str]:
        """Take note of everything that has arrived; the streams of which something else is wanted now."""
        touched = set()
        for asked in self._server.receive():
            stream = str(asked.message.get("stream"))
            try:
                self._take(asked, stream, now)
            except ConfigError as error:
                self._server.reply_error(asked, error)
            else:
                touched.add(stream)
        for name, question in list(self._pending.items()):
            if now.mono > question.until:
                del self._pending[name]
                self._schedules[question.stream].drop(name)
        return touched

    def reply(self, result: Result, model: str) -> bool:
        """Tell who asked; False when it is the answer of no question."""
        due = result.job.due
        if not due.task.name.startswith(PREFIX):
            return False
        question = self._pending.pop(due.task.name, None)
        if question is not None:
            event = result_event(self._agent.name, result, model)
            age = time.monotonic() - result.job.frame.captured_mono
            self._server.reply(question.request, event=json.loads(encode(event)), age_s=round(age, 3))
        return True

    def _take(self, asked: Request, stream: str, now: Now) -> None:
        if stream not in self._policy.schedules:
            raise ConfigError(f"the stream `{stream}` has ended")
        schedule = self._schedules[stream]
        if asked.message["op"] == "tasks":
            self._agent = with_tasks(self._agent, stream, asked.message["tasks"])
            schedule.replace(self._agent.streams[stream].active, now)
            self._policy.on_tasks_changed(stream, now)
            return
        self._last += 1
        name = f"{PREFIX}{self._last}"
        (task,) = with_tasks(self._agent, stream, [asked.message["task"]]).streams[stream].tasks
        self._pending[name] = _Pending(asked, stream, now.mono + asked.message["seconds"])
        schedule.ask(replace(task, name=name))
        self._policy.on_tasks_changed(stream, now)
