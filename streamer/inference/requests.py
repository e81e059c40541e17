"""Requests of the parent to an inference process: one-shot questions, changed task lists, handovers of streams.

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
from typing import Any

from streamer.bus.commands import (
    INFERENCE,
    Ask,
    CountOutcomes,
    InferenceStreamCommand,
    ReleaseStream,
    ServeStream,
    SetTasks,
    parse,
)
from streamer.bus.result_feed import ResultPublisher
from streamer.bus.rpc import Request, RpcServer, infer_socket
from streamer.config.changes import raw_stream, with_tasks
from streamer.config.model import Config, Stream
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of
from streamer.events.build import result_event
from streamer.events.schema import encode
from streamer.inference.outcome_counts import OutcomeCounts
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

    def __init__(
        self, runtime: Path, config: Config, policy: Policy, feed: ResultPublisher, target: str | None = None
    ) -> None:
        """`feed` carries changed task lists to the views and the web process. `target`: as of `infer_socket`."""
        self._config, self._policy, self._feed = config, policy, feed
        self._server = RpcServer(infer_socket(runtime, target))
        self.counts = OutcomeCounts()
        """Outcomes of this process; its publisher adds them."""
        self._pending: dict[str, _Pending] = {}
        """Keys: name of the one-shot task."""
        self._handovers: list[tuple[Request, ServeStream | ReleaseStream]] = []
        self.socket = self._server.socket
        """Poll it for reading, then call `receive`."""

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The streams with their present tasks."""
        return self._config.streams

    def served(self) -> Mapping[str, Stream]:
        """Return the streams that this process serves, with their present tasks."""
        return {name: self._config.streams[name] for name in self._policy.schedules}

    def close(self) -> None:
        self._server.close()

    def receive(self, now: Now) -> set[str]:
        """Handle all requests that have arrived; return the served streams whose tasks have changed."""
        changed = set()
        for request in self._server.receive():
            try:
                command = parse(INFERENCE, request.message)
                if isinstance(command, CountOutcomes):
                    self._server.reply(request, outcomes=self.counts.rows())
                    continue
                self._handle(request, command, now)
            except Exception as error:  # whatever a caller sends, inference runs on and the caller gets an answer
                self._server.reply_error(request, reason_of(error, "request"))
            else:
                changed.update({command.stream} & self._policy.schedules.keys())
        for name, pending in list(self._pending.items()):
            if now.mono > pending.until:
                del self._pending[name]
                if (schedule := self._policy.schedules.get(pending.stream)) is not None:
                    schedule.drop(name)
        return changed

    def take_handovers(self) -> list[tuple[Request, ServeStream | ReleaseStream]]:
        """Return the handovers that were requested since the last call. Each needs `reply_to`."""
        taken, self._handovers = self._handovers, []
        return taken

    def reply_to(self, request: Request, **response: Any) -> None:
        self._server.reply(request, **response)

    def raw_tasks(self, stream: str) -> list[dict[str, Any]]:
        """Return the present tasks of a stream as plain data."""
        tasks: list[dict[str, Any]] = self._config.raw["streams"][stream]["tasks"]
        return tasks

    def fail_questions(self, stream: str) -> list[str]:
        """Reply to the questions about a stream that another process will serve; return the names of their tasks."""
        names = [name for name, pending in self._pending.items() if pending.stream == stream]
        for name in names:
            self._server.reply(self._pending.pop(name).request, failed="the stream moved to another device: ask again")
        return names

    def reply(self, result: Result, model: str) -> None:
        """Send the outcome of a one-shot task to its caller, unless that has timed out."""
        pending = self._pending.pop(result.job.due.task.name, None)
        if pending is not None:
            event = result_event(self._config.name, result, model)
            age = time.monotonic() - result.job.frame.captured_mono
            self._server.reply(pending.request, event=json.loads(encode(event)), age_s=round(age, 3))

    def _handle(self, request: Request, command: InferenceStreamCommand, now: Now) -> None:
        """Raises ConfigError."""
        stream = command.stream
        schedule = self._policy.schedules.get(stream)
        match command:
            case ServeStream() | ReleaseStream():
                raw_stream(self._config, stream)
                self._handovers.append((request, command))
                return
            case SetTasks(tasks=tasks):
                self._config = with_tasks(self._config, stream, tasks)
                if schedule is None:  # another process serves it, or it has ended
                    return
                schedule.replace(self._config.streams[stream].active, now)
                self._feed.publish_tasks(stream, tasks)
            case Ask():
                if schedule is None:
                    raise ConfigError(f"the stream `{stream}` has ended")
                (task,) = with_tasks(self._config, stream, [command.task]).streams[stream].tasks
                if task.then:
                    raise ConfigError("`then` is for scheduled tasks: ask about a region with `--region`")
                # Unlike any name in a config (these have no slash) and any that a dead process has left as a suspect.
                name = f"ask/{secrets.token_hex(8)}"
                self._pending[name] = _Pending(request, stream, now.mono + command.seconds)
                schedule.add_one_shot(replace(task, name=name))
        self._policy.on_tasks_changed(stream, now)
