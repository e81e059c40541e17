"""The parent's control socket: checks requests, applies changes to the config, passes questions on to inference.

A change becomes part of the config that children are started with, so it survives a restart of the inference process.
A change that is not saved ends with the parent. When the inference process dies, pending questions fail at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from streamer.bus.commands import (
    CONTROL,
    MAX_ASK_S,
    Ask,
    ChangeTask,
    ListModels,
    ListTasks,
    ModelCommand,
    RunStreams,
    UseModel,
    UseModelBefore,
    parse,
)
from streamer.bus.rpc import Request, RpcServer, control_socket
from streamer.config.changes import DONE, Change, SavedChanges, check_question, raw_stream
from streamer.config.model import Config
from streamer.core.errors import ConfigError
from streamer.core.paths import AgentPaths
from streamer.core.reasons import reason_of
from streamer.events.build import streams_event, task_event
from streamer.events.ledger import LEDGER_FILE
from streamer.events.schema import ResultEvent, StatusEvent
from streamer.inference.quarantine import Verdict
from streamer.processes.inference_clients import Question
from streamer.processes.stream_router import StreamRouter
from streamer.processes.wanted_streams import WantedStreams

log = logging.getLogger(__name__)

MAX_PENDING = 64
"""Questions that may wait for an answer; a further one is refused."""
_ASK = "ask"
"""Task name of a question while it is checked."""


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Pending(NamedTuple):
    request: Request
    deadline: float
    """Monotonic second."""


class Control:
    """Answers requests whenever `poll_once` is called. `config` is what children are started with."""

    def __init__(
        self,
        config: Config,
        folders: AgentPaths,
        router: StreamRouter,
        wanted: WantedStreams,
        send_event: Callable[[ResultEvent | StatusEvent], None],
    ) -> None:
        self.config = config
        self._folders = folders
        self.send_event = send_event
        self._saved = SavedChanges(folders.state)
        self._server = RpcServer(control_socket(folders.runtime))
        self.router, self.wanted = router, wanted
        self._pending: dict[Question, _Pending] = {}
        self._model_commands: list[tuple[Request, ModelCommand]] = []

    def close(self) -> None:
        self._server.close()
        self.router.clients.close()

    @property
    def runtime(self) -> Path:
        """The agent's runtime folder."""
        return self._folders.runtime

    def descriptors(self) -> list[int]:
        """Return the file descriptors to poll. They are edge-triggered: call `poll_once` at intervals in any case."""
        sockets = [self._server.socket, *(client.socket for client in self.router.clients.all())]
        return [int(socket.get(zmq.FD)) for socket in sockets]

    def poll_once(self) -> None:
        """Handle what has arrived, and fail the questions whose time is over."""
        if self.wanted.expire(_boot_time()):  # first: what arrived while this process was stopped may be late
            self._report_streams()
        for request in self._server.receive():
            try:
                self._handle(request)
            except Exception as error:  # whatever a caller sends, the agent runs on and the caller gets an answer
                self._server.reply_error(request, reason_of(error, "control"))
        for question, answer in self.router.receive():
            if pending := self._pending.pop(question, None):
                self._server.reply(pending.request, **answer)
        self.router.balance()
        for verdict in self.router.quarantine.take_verdicts():
            self._report(verdict)
        now = time.monotonic()
        for question in [question for question, pending in self._pending.items() if now > pending.deadline]:
            self._server.reply(self._pending.pop(question).request, failed="no answer in time")

    def take_model_commands(self) -> list[tuple[Request, ModelCommand]]:
        """Return the commands about models since the last call. Each needs an answer."""
        taken, self._model_commands = self._model_commands, []
        return taken

    def reply(self, request: Request, **response: Any) -> None:
        self._server.reply(request, **response)

    def reply_error(self, request: Request, reason: str) -> None:
        self._server.reply_error(request, reason)

    def on_infer_exit(self, process: str | None, was_killed: bool) -> None:
        """Fail all questions that are pending there. `process`: its target. `was_killed`: from outside."""
        for question in [question for question in self._pending if question.process == process]:
            pending = self._pending.pop(question)
            self._server.reply(pending.request, failed="the inference process died: ask again")
        self.router.on_exit(process, was_killed)

    def _report(self, verdict: Verdict) -> None:
        (stream, name, _), reason = verdict.suspect, verdict.describe()
        log.error("%s: %s", stream, reason)
        self.send_event(task_event(self.config.name, stream, name, "quarantined", reason, verdict.pause))

    def _handle(self, request: Request) -> None:
        match parse(CONTROL, request.message):
            case ListTasks():
                self._server.reply(request, **self._overview())
            case Ask() as ask:
                self._check_devices()
                self._ask(request, ask)
            case ChangeTask() as command:
                self._check_devices()
                change = Change(command.op, command.stream, command.name, command.task)
                self._server.reply(request, done=self._change(change, command.save))
            case RunStreams() as command:
                self._server.reply(request, **self._run_streams(command))
            case ListModels() | UseModel() | UseModelBefore() as command:
                self._check_devices()
                self._model_commands.append((request, command))

    def _overview(self) -> dict[str, Any]:
        """Return the tasks of each stream, its device if there are several, the ledger's path, which streams run."""
        streams = {name: [task.to_json for task in stream.tasks] for name, stream in self.config.streams.items()}
        running = {"running": self.wanted.describe(_boot_time()).model_dump()}
        ledger, devices = str(self._folders.state / LEDGER_FILE), self.router.devices_by_stream()
        return {"agent": self.config.name, "ledger": ledger, "streams": streams, "devices": devices, **running}

    def _check_devices(self) -> None:
        """Raise ConfigError if this agent runs no model."""
        if not self.router.devices:
            raise ConfigError(
                "this agent runs no model, because its config has no task: ask the agent that has the tasks"
            )

    def _ask(self, request: Request, ask: Ask) -> None:
        if not 0 < ask.seconds <= MAX_ASK_S:
            raise ConfigError(f"cannot wait {ask.seconds:g} s for an answer: give 0.1 to {MAX_ASK_S:g} s")
        if len(self._pending) >= MAX_PENDING:
            raise ConfigError(f"{MAX_PENDING} questions wait for an answer already: ask again later")
        task = {**ask.task, "name": _ASK}
        check_question(self.config, ask.stream, task)
        if ask.stream not in self.router.placement.process_of:
            raise ConfigError(f"the stream `{ask.stream}` does not run here: it has ended, or another host runs it")
        question = self.router.ask(ask.stream, ask.model_copy(update={"task": task}))
        self._pending[question] = _Pending(request, time.monotonic() + ask.seconds)

    def _run_streams(self, command: RunStreams) -> dict[str, Any]:
        for name in command.names:
            raw_stream(self.config, name)
        now = _boot_time()
        if self.wanted.take(command, now):
            self._report_streams()
        return self.wanted.describe(now).model_dump()

    def _report_streams(self) -> None:
        """Publish which streams run from now on. `StreamProcesses` starts and stops them."""
        names, reason = list(self.wanted.leases), self.wanted.reason
        log.info("streams that are to run: %d of %d: %s", len(names), len(self.config.streams), reason)
        self.send_event(streams_event(self.config.name, names, reason))

    def _change(self, change: Change, save: bool) -> str:
        before, after = self.config, change.apply(self.config)
        if save:
            try:
                self._saved.add(change)
            except OSError as error:
                raise ConfigError(f"change cannot be saved ({error.strerror}): check the state folder") from None
        self.config = after
        state, saved = DONE[change.what], "saved" if save else None
        kinds = {task.name: task.task for config in (before, after) for task in config.streams[change.stream].tasks}
        asks = kinds[change.name]
        event = task_event(after.name, change.stream, change.name, state, saved, asks=asks, keys=change.task)
        self.send_event(event)  # first: the rules look at the answers of a new task from this event on
        self.router.set_tasks(after, change.stream)
        log.info("task %s of %s %s%s", change.name, change.stream, state, ", saved" if save else "")
        return f"{change.name} of {change.stream}: {state}" + (", saved" if save else "")
