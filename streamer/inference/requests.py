"""Requests of the parent to the inference process: one-shot questions and changed task lists.

A one-shot question is a task of its stream that runs once, on the next frame, before all other tasks. Its answer goes
to the caller and is not published.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from streamer.bus.commands import INFERENCE, Ask, InferenceCommand, SetTasks, parse
from streamer.bus.result_feed import ResultPublisher
from streamer.bus.rpc import Request, RpcServer, infer_socket
from streamer.config.changes import with_tasks
from streamer.config.model import Config, Stream
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of
from streamer.events.build import result_event
from streamer.events.schema import encode
from streamer.inference.policy import Policy
from streamer.inference.triggers import Now
from streamer.types import Result


@dataclass(frozen=True, slots=True)
class _Pending:
    request: Request
    stream: str
    until: float


class RequestHandler:
    """Receives the requests of the parent and replies to them."""

    def __init__(self, runtime: Path, config: Config, policy: Policy, feed: ResultPublisher) -> None:
        """`feed` carries changed task lists to the views and the web process."""
        self._config, self._policy, self._feed = config, policy, feed
        self._server = RpcServer(infer_socket(runtime))
        self._pending: dict[str, _Pending] = {}
        """Keys: name of the one-shot task."""
        self.socket = self._server.socket
        """Poll it for reading, then call `receive`."""

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The streams with their present tasks."""
        return self._config.streams

    def close(self) -> None:
        self._server.close()

    def receive(self, now: Now) -> set[str]:
        """Handle all requests that have arrived; return the streams whose tasks have changed."""
        changed = set()
        for request in self._server.receive():
            try:
                command = parse(INFERENCE, request.message)
                self._handle(request, command, now)
            except Exception as error:  # whatever a caller sends, inference runs on and the caller gets an answer
                self._server.reply_error(request, reason_of(error, "request"))
            else:
                changed.add(command.stream)
        for name, pending in list(self._pending.items()):
            if now.mono > pending.until:
                del self._pending[name]
                if (schedule := self._policy.schedules.get(pending.stream)) is not None:
                    schedule.drop(name)
        return changed

    def reply(self, result: Result, model: str) -> None:
        """Send the outcome of a one-shot task to its caller, unless that has timed out."""
        pending = self._pending.pop(result.job.due.task.name, None)
        if pending is not None:
            event = result_event(self._config.name, result, model)
            age = time.monotonic() - result.job.frame.captured_mono
            self._server.reply(pending.request, event=json.loads(encode(event)), age_s=round(age, 3))

    def _handle(self, request: Request, command: InferenceCommand, now: Now) -> None:
        """Raises ConfigError."""
        stream = command.stream
        schedule = self._policy.schedules.get(stream)
        if schedule is None:
            raise ConfigError(f"the stream `{stream}` has ended")
        match command:
            case SetTasks(tasks=tasks):
                self._config = with_tasks(self._config, stream, tasks)
                schedule.replace(self._config.streams[stream].active, now)
                self._feed.publish_tasks(stream, tasks)
            case Ask():
                (task,) = with_tasks(self._config, stream, [command.task]).streams[stream].tasks
                # Unlike any name in a config (these have no slash) and any that a dead process has left as a suspect.
                name = f"ask/{secrets.token_hex(8)}"
                self._pending[name] = _Pending(request, stream, now.mono + command.seconds)
                schedule.add_one_shot(replace(task, name=name))
        self._policy.on_tasks_changed(stream, now)
