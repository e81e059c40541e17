"""The parent's ear for orders: checks them, makes them part of the config that children get, hands them on.

Because the parent keeps a change, an inference process that dies comes back with it; what was not saved ends with the
parent. A question goes to the inference process and its answer back; when that dies, who asked is told at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import zmq

from streamer.bus.rpc import Request, RpcClient, RpcServer, control_socket, infer_socket
from streamer.config.changes import DONE, Change, SavedChanges, stream_of, with_tasks
from streamer.config.model import Config
from streamer.core.errors import ConfigError
from streamer.core.paths import AgentPaths
from streamer.events.build import task_event
from streamer.events.ledger import LEDGER_FILE
from streamer.events.schema import StatusEvent

log = logging.getLogger(__name__)

MAX_ASK_S = 600.0
_MALFORMED = "malformed request ({}): CLI and agent versions may differ"
_ASK = "ask"


class _Pending(NamedTuple):
    asked: Request
    until: float


class Control:
    """Reads orders whenever `turn` is called. `agent` is what the children should run with."""

    def __init__(self, config: Config, folders: AgentPaths, tell: Callable[[StatusEvent], None]) -> None:
        self.config = config
        self._folders = folders
        self._send_event = tell
        self._saved = SavedChanges(folders.state)
        self._server = RpcServer(control_socket(folders.runtime))
        self._infer = RpcClient(infer_socket(folders.runtime))
        self._pending: dict[int, _Pending] = {}

    def close(self) -> None:
        self._server.close()
        self._infer.close()

    def descriptors(self) -> list[int]:
        """To poll; then call `turn`. They tell of news once only, so call it now and then in any case."""
        return [int(socket.get(zmq.FD)) for socket in (self._server.socket, self._infer.socket)]

    def poll_once(self) -> None:
        """Answer what has arrived, and what nobody will answer any more."""
        for asked in self._server.receive():
            try:
                self._handle(asked)
            except ConfigError as error:
                self._server.reply_error(asked, error)
            except (KeyError, TypeError, ValueError) as error:
                self._server.reply(
                    asked, error=f"no order ({type(error).__name__}): is the command of another version?"
                )
        for answer in self._infer.receive():
            if pending := self._pending.pop(answer["id"], None):
                self._server.reply(pending.asked, **answer)
        now = time.monotonic()
        for number in [number for number, pending in self._pending.items() if now > pending.until]:
            self._server.reply(self._pending.pop(number).asked, failed="no answer in time")

    def on_infer_exit(self) -> None:
        """Fail the requests that infer will not answer."""
        for pending in self._pending.values():
            self._server.reply(pending.asked, failed="the inference process died: ask again")
        self._pending.clear()

    def _handle(self, asked: Request) -> None:
        message = asked.message
        match message.get("op"):
            case "ask":
                self._ask(asked, message)
            case "list":
                self._server.reply(asked, **self._overview())
            case "add" | "remove" | "pause" | "resume" as what:
                change = Change(what, str(message.get("stream")), str(message.get("name")), message.get("task"))
                self._server.reply(asked, done=self._change(change, bool(message.get("save"))))
            case other:
                raise ConfigError(f"unknown order `{other}`: is the running agent of another version?")

    def _overview(self) -> dict[str, Any]:
        """Return the tasks of each stream, and the path of the ledger."""
        streams = {name: [task.to_json for task in stream.tasks] for name, stream in self.config.streams.items()}
        return {"agent": self.config.name, "ledger": str(self._folders.state / LEDGER_FILE), "streams": streams}

    def _ask(self, asked: Request, message: Mapping[str, Any]) -> None:
        stream, task = str(message.get("stream")), {**message["task"], "name": _ASK}
        stream_of(self.config, stream)
        with_tasks(self.config, stream, [task])  # refused here, in plain words
        seconds = min(MAX_ASK_S, float(message.get("timeout", MAX_ASK_S)))
        number = self._infer.send(op="ask", stream=stream, task=task, seconds=seconds)
        self._pending[number] = _Pending(asked, time.monotonic() + seconds)

    def _change(self, change: Change, save: bool) -> str:
        before, agent = self.config, change.apply(self.config)
        if save:
            try:
                self._saved.add(change)
            except OSError as error:
                raise ConfigError(f"cannot be saved: {error.strerror}") from None
        self.config = agent
        tasks = agent.raw["streams"][change.stream]["tasks"]
        self._infer.send(op="tasks", stream=change.stream, tasks=tasks)
        state, saved = DONE[change.what], "saved" if save else None
        known = {task.name: task.task for one in (before, agent) for task in one.streams[change.stream].tasks}
        asks = known[change.name]
        self._send_event(task_event(agent.name, change.stream, change.name, state, saved, asks=asks))
        log.info("task %s of %s was %s%s", change.name, change.stream, state, ", and so it will be" if save else "")
        return f"{change.name} of {change.stream}: {state}" + (", saved" if save else "")
