"""The parent's connections to the inference processes, and which of them serves each stream.

`Placement` plans, this module carries out: a stream is released by one process before another one is told to serve it.
Its schedule and its quarantine go with it. A process that has ended serves nothing, and its journal has the quarantine.
With one process there is nothing to decide: it serves all streams from its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from streamer.bus.commands import Ask, Released, ReleaseStream, ServeStream, SetTasks
from streamer.bus.rpc import Message, RpcClient, infer_socket
from streamer.bus.stream_state import NO_ROWS, Moment, QuarantineRows, ScheduleState
from streamer.config.model import Config, find_pipeline
from streamer.core.errors import ConfigError
from streamer.inference.placement import Placement
from streamer.inference.stream_load import stream_load
from streamer.processes.agent_quarantine import AgentQuarantine
from streamer.processes.assignment import Role, child_name
from streamer.types import Device

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """A question that was sent: the process that has it, and its number there."""

    process: str | None
    number: int


class StreamRouter:
    """Sends commands to the process of their stream, and hands streams over."""

    def __init__(self, runtime: Path, config: Config, devices: Mapping[str | None, Device]) -> None:
        """`devices`: by the targets of the inference processes, as of `Child.target`."""
        self.devices = devices
        settings = next((device.settings for device in devices.values()), config.model)
        self._costs = find_pipeline().costs(settings).seconds
        self._clients = {target: RpcClient(infer_socket(runtime, target)) for target in devices}
        recordings = frozenset(name for name, stream in config.streams.items() if stream.source.pace == "file")
        loads = {name: stream_load(stream, self._costs) for name, stream in config.streams.items() if devices}
        self.quarantine = AgentQuarantine(runtime, recordings, tuple(devices))
        self._placement = Placement(tuple(devices), loads, recordings)
        self._serving = dict(self._placement.process_of) if len(devices) == 1 else {}
        """Processes by stream. A stream that moves, or whose process is lost, has none."""
        self._leaving: dict[str, Question] = {}
        """Requests to release a stream that are not answered."""
        self._offered: dict[str, Question] = {}
        """Requests to serve a stream that are not answered: the process may not know the stream yet."""
        self._schedules: dict[str, ScheduleState] = {}
        """Schedules of streams that were released and that no process serves yet."""
        self._lost_at: dict[str, Moment] = {}
        """Times at which the process that served a stream ended."""

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def clients(self) -> list[RpcClient]:
        return list(self._clients.values())

    def check_devices(self) -> None:
        """Raise ConfigError if this agent runs no model."""
        if not self.devices:
            raise ConfigError(
                "this agent runs no model, because its config has no task: ask the agent that has the tasks"
            )

    def ask(self, stream: str, ask: Ask) -> Question:
        """Send a question. Raises ConfigError while no process serves the stream."""
        if stream not in self._serving or stream in self._leaving:
            raise ConfigError(f"no device has the stream `{stream}` at the moment: ask again in a few seconds")
        process = self._serving[stream]
        return Question(process, self._clients[process].send(**ask.message()))

    def set_tasks(self, config: Config, stream: str) -> None:
        """Send the changed tasks of a stream: to all processes, because any may serve it later."""
        command = SetTasks(stream=stream, tasks=config.raw["streams"][stream]["tasks"])
        for client in self._clients.values():
            client.send(**command.message())
        self._placement.set_load(stream, stream_load(config.streams[stream], self._costs))

    def receive(self) -> list[tuple[Question, Message]]:
        """Return the answers that have arrived."""
        answers = []
        for process, client in self._clients.items():
            answers += [(Question(process, answer["id"]), answer) for answer in client.receive()]
        for question, answer in answers:
            for stream in [stream for stream, asked in self._offered.items() if asked == question]:
                del self._offered[stream]
            for stream in [stream for stream, asked in self._leaving.items() if asked == question]:
                self._on_released(stream, question.process, answer)
        return answers

    def on_ready(self, process: str | None) -> None:
        """The process can serve streams."""
        self._placement.up(process, time.monotonic())
        self._carry_out()

    def on_exit(self, process: str | None, was_killed: bool) -> None:
        """The process has ended: others serve its streams. What it has not read is not for the next process.

        `was_killed`: from outside, so no task is suspected.
        """
        self._clients[process].drop_unsent()
        lost = [stream for stream, place in self._serving.items() if place == process]
        if self._placement.is_up(process):  # else it had no jobs yet, and its journal is the one that is known
            known = set(lost) - self._offered.keys()
            self.quarantine.on_exit(process, known, was_killed)
            self._lost_at.update(dict.fromkeys(known, (time.monotonic(), time.time())))
        self._placement.lose(process)
        if len(self._clients) == 1:
            return
        for stream in lost:
            del self._serving[stream]
            self._leaving.pop(stream, None)
            self._offered.pop(stream, None)
        if lost:
            log.warning("%s lost, its %d streams go to other devices", child_name(Role.INFER, process), len(lost))
        self._carry_out()

    def on_stream_end(self, stream: str) -> None:
        """The stream gives no more frames."""
        self._placement.end(stream)

    def on_speed(self, process: str | None, speed: float) -> None:
        """The process has measured its device."""
        self._placement.set_speed(process, speed)

    def balance(self) -> None:
        """Move one stream if the devices are loaded unequally."""
        if self._leaving or len(self._clients) == 1:
            return
        if (stream := self._placement.balance(time.monotonic())) is not None:
            name = self.devices[self._placement.process_of[stream]].name
            log.info("stream %s moves to %s: the devices are loaded unequally", stream, name)
            self._carry_out()

    def state_at_start(self) -> tuple[QuarantineRows, Moment | None]:
        """Return the quarantine of the streams that a process serves from its start, and when the one before ended."""
        if len(self._clients) > 1:
            return NO_ROWS, None
        return self.quarantine.rows(), max(self._lost_at.values(), default=None)

    def devices_by_stream(self) -> dict[str, str]:
        """Return the names of the devices whose processes serve a stream. Empty where there is one device."""
        if len(self._clients) == 1:
            return {}
        planned, serving = self._placement.process_of, self._serving
        return {stream: self.devices[process].name for stream, process in serving.items() if stream in planned}

    def _carry_out(self) -> None:
        """Request what the plan needs: that a stream is served, or released first."""
        for stream, planned in self._placement.process_of.items():
            if stream not in self._serving:
                if self._placement.is_up(planned):
                    schedule, rows = self._schedules.pop(stream, None), self.quarantine.rows({stream})
                    since = self._lost_at.get(stream)
                    command = ServeStream(stream=stream, schedule=schedule, since=since, quarantine=rows)
                    self._offered[stream] = Question(planned, self._clients[planned].send(**command.message()))
                    self._serving[stream] = planned
            elif self._serving[stream] != planned and stream not in self._leaving:
                process = self._serving[stream]
                number = self._clients[process].send(**ReleaseStream(stream=stream).message())
                self._leaving[stream] = Question(process, number)

    def _on_released(self, stream: str, process: str | None, message: Message) -> None:
        del self._leaving[stream]
        try:
            answer = Released.model_validate(message)
        except ValidationError:
            log.error("stream %s released without its state by %s", stream, child_name(Role.INFER, process))
            answer = Released(released=bool(message.get("released")), quarantine=self.quarantine.rows({stream}))
        if answer.released:
            del self._serving[stream]
            self.quarantine.on_released(stream, answer.quarantine)
            self._lost_at.pop(stream, None)
            if answer.schedule is not None:
                self._schedules[stream] = answer.schedule
        else:
            log.warning("stream %s stays on its device: its capture process did not answer", stream)
            self._placement.keep(stream, process)
        self._carry_out()
