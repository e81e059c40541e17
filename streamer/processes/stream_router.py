"""The parent's connections to the inference processes, and which of them serves each stream.

`Placement` plans, this module carries out: a stream is released by one process before another one is told to serve it.
Its schedule and its quarantine go with it. A process that has ended serves nothing, and its journal has the quarantine.
The only process of an agent serves from its start what runs then, and afterwards is told like one of several.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from streamer.bus.commands import Ask, Released, ReleaseStream, ServeStream, SetTasks
from streamer.bus.rpc import Message, RpcClient, device_of, other_target
from streamer.bus.stream_state import NO_ROWS, Moment, QuarantineRows, ScheduleState
from streamer.config.model import Config, Stream, find_pipeline
from streamer.core.errors import ConfigError
from streamer.core.printable import counted
from streamer.inference.placement import Placement
from streamer.inference.stream_load import stream_load
from streamer.processes.agent_quarantine import AgentQuarantine
from streamer.processes.assignment import Role, child_name
from streamer.processes.inference_clients import InferenceClients, Question
from streamer.types import Device

log = logging.getLogger(__name__)


class StartState(NamedTuple):
    """State with which an inference process starts."""

    serves: dict[str, int | None]
    """The streams that it serves from its start, as of `Assignment.serves`."""
    quarantine: QuarantineRows
    """Suspects and blocked tasks of these streams."""
    since: Moment | None
    """End of the process before, which served them."""


class StreamRouter:
    """Sends commands to the process of their stream, and hands streams over."""

    def __init__(
        self,
        runtime: Path,
        config: Config,
        devices: Mapping[str | None, Device],
        running: Collection[str] | None = None,
    ) -> None:
        """`devices`: by the targets of the inference processes. `running`: streams served from the start; None: all."""
        self.devices = dict(devices)
        settings = next((device.settings for device in devices.values()), config.model)
        self._costs = find_pipeline().costs(settings).seconds
        self.clients = InferenceClients(runtime, devices)
        recordings = frozenset(name for name, stream in config.streams.items() if stream.source.pace == "file")
        served = {name: one for name, one in config.streams.items() if devices and (running is None or name in running)}
        loads = {name: stream_load(stream, self._costs) for name, stream in served.items()}
        self.quarantine = AgentQuarantine(runtime, recordings, (*devices, *map(other_target, devices)))
        self.placement = Placement(tuple(devices), loads, recordings)
        self._serving = dict(self.placement.process_of) if len(devices) == 1 else {}
        """Processes by stream. A stream that moves, or whose process is lost, has none."""
        self._leases: dict[str, int | None] = {}  # of streams that were added, as of `ServeStream`
        self._given_up: set[str] = set()  # streams that were removed and that a process still serves
        self._started: set[str | None] = set()  # processes that run or load
        self._leaving: dict[str, Question] = {}
        """Requests to release a stream that are not answered."""
        self._offered: dict[str, Question] = {}
        """Requests to serve a stream that are not answered: the process may not know the stream yet."""
        self._schedules: dict[str, ScheduleState] = {}
        """Schedules of streams that were released and that no process serves yet."""
        self._lost_at: dict[str, Moment] = {}
        """Times at which the process that served a stream ended."""

    def ask(self, stream: str, ask: Ask) -> Question:
        """Send a question. Raises ConfigError while no process serves the stream."""
        if stream not in self._serving or stream in self._leaving:
            raise ConfigError(f"no device has the stream `{stream}` at the moment: ask again in a few seconds")
        return self.clients.send(self._serving[stream], ask)

    def set_tasks(self, config: Config, stream: str) -> None:
        """Send the changed tasks of a stream: to all processes, because any may serve it later."""
        self.clients.send_all(SetTasks(stream=stream, tasks=config.raw["streams"][stream]["tasks"]))
        self.placement.set_load(stream, stream_load(config.streams[stream], self._costs))

    def receive(self) -> list[tuple[Question, Message]]:
        """Return the answers that have arrived."""
        answers = self.clients.receive()
        for question, answer in answers:
            for stream in [stream for stream, asked in self._offered.items() if asked == question]:
                del self._offered[stream]
            for stream in [stream for stream, asked in self._leaving.items() if asked == question]:
                self._on_released(stream, question.process, answer)
        return answers

    def add_process(self, process: str | None, device: Device) -> RpcClient:
        """A process with another model is started beside those of `devices`. It stands by."""
        for stream in [stream for stream, place in self._serving.items() if place not in self._started]:
            self._forget(stream)  # it is not the only process any more, which serves its streams from its start
        self.devices[process] = device
        self.placement.add_process(process)
        return self.clients.add(process)

    def substitute(self, old: str | None, new: str | None) -> bool:
        """Move the streams of one process to another, as far as that is up. Return whether none is left."""
        if self.placement.is_up(new):
            self.placement.substitute(old, new)
            self._carry_out()
        offered = {question.process for question in self._offered.values()}
        return not {old} & {*self._serving.values(), *self.placement.process_of.values()} and new not in offered

    def remove_process(self, process: str | None) -> None:
        """A process that serves nothing has ended for good."""
        self.clients.remove(process)
        self.placement.remove_process(process)
        self._started.discard(process)
        del self.devices[process]

    def add(self, stream: str, settings: Stream, lease: int | None) -> None:
        """Have a stream served that was not or that was removed. `lease`: as of `ServeStream`."""
        if len(self.clients):
            self._leases[stream] = lease
            self.placement.add(stream, stream_load(settings, self._costs))
            self._carry_out()

    def remove(self, stream: str) -> None:
        """Have a stream given up that has ended or is not wanted. It is given up once `is_served` is false."""
        self.placement.end(stream)
        for known in (self._leases, self._schedules, self._lost_at):
            known.pop(stream, None)
        if stream in self._serving and self.placement.is_up(self._serving[stream]):
            self._given_up.add(stream)
            self._carry_out()
        elif stream in self._serving:
            if self._serving[stream] in self._started:  # it will serve the stream at first
                self._release(stream, is_final=True)
            self._forget(stream)

    def is_served(self, stream: str) -> bool:
        """Return whether a process may have jobs of the stream."""
        return stream in self._serving

    def on_ready(self, process: str | None) -> None:
        """The process can serve streams."""
        self.placement.up(process, time.monotonic())
        self._carry_out()

    def on_exit(self, process: str | None, was_killed: bool) -> None:
        """The process has ended: others serve its streams. What it has not read is not for the next process.

        `was_killed`: from outside, so no task is suspected.
        """
        self.clients.drop_unsent(process)
        lost = [stream for stream, place in self._serving.items() if place == process]
        if self.placement.is_up(process):  # else it had no jobs yet, and its journal is the one that is known
            known = set(lost) - self._offered.keys()
            self.quarantine.on_exit(process, known, was_killed)
            self._lost_at.update(dict.fromkeys(known, (time.monotonic(), time.time())))
        self.placement.lose(process)
        self._started.discard(process)
        is_only = len(self.clients) == 1
        for stream in [stream for stream in lost if not is_only or stream in self._given_up]:
            self._forget(stream)
        if is_only:
            self._offered.clear()
            return
        if lost:
            streams = counted(len(lost), "stream")
            log.warning("%s lost, going to other devices: %s", child_name(Role.INFER, process), streams)
        self._carry_out()

    def balance(self) -> None:
        """Move one stream if the devices are loaded unequally."""
        if self._leaving or len(self.clients) == 1:
            return
        if (stream := self.placement.balance(time.monotonic())) is not None:
            name = self.devices[self.placement.process_of[stream]].name
            log.info("stream %s moves to %s: the devices are loaded unequally", stream, name)
            self._carry_out()

    def state_at_start(self, process: str | None) -> StartState:
        """Return what the process needs when it starts."""
        self._started.add(process)
        if len(self.clients) > 1:
            return StartState({}, NO_ROWS, None)
        self._serving = dict(self.placement.process_of)
        serves = {stream: self._leases.get(stream) for stream in self._serving}
        return StartState(serves, self.quarantine.rows(), max(self._lost_at.values(), default=None))

    def devices_by_stream(self) -> dict[str, str]:
        """Return the names of the devices whose processes serve a stream. Empty where there is one device."""
        if not device_names(self.devices):
            return {}
        planned, serving = self.placement.process_of, self._serving
        return {stream: self.devices[process].name for stream, process in serving.items() if stream in planned}

    def _carry_out(self) -> None:
        """Request what the plan needs: that a stream is served, or released first."""
        for stream in self._given_up & self._serving.keys() - self._leaving.keys():
            self._release(stream, is_final=True)
        for stream, planned in self.placement.process_of.items():
            if stream not in self._serving:
                if self.placement.is_up(planned):
                    schedule, rows = self._schedules.pop(stream, None), self.quarantine.rows({stream})
                    since = self._lost_at.get(stream)
                    command = ServeStream(
                        stream=stream, schedule=schedule, since=since, quarantine=rows, lease=self._leases.get(stream)
                    )
                    self._offered[stream] = self.clients.send(planned, command)
                    self._serving[stream] = planned
            elif self._serving[stream] != planned and stream not in self._leaving:
                self._release(stream)

    def _release(self, stream: str, is_final: bool = False) -> None:
        process = self._serving[stream]
        self._leaving[stream] = self.clients.send(process, ReleaseStream(stream=stream, is_final=is_final))

    def _forget(self, stream: str) -> None:
        """No process serves the stream any more."""
        del self._serving[stream]
        self._leaving.pop(stream, None)
        self._offered.pop(stream, None)
        self._given_up.discard(stream)

    def _on_released(self, stream: str, process: str | None, message: Message) -> None:
        del self._leaving[stream]
        if (answer := _released(message)) is None:
            log.error("stream %s released without its state by %s", stream, child_name(Role.INFER, process))
            answer = Released(released=bool(message.get("released")), quarantine=self.quarantine.rows({stream}))
        if answer.released:
            is_given_up = stream in self._given_up
            self._forget(stream)
            self.quarantine.on_released(stream, answer.quarantine)
            self._lost_at.pop(stream, None)
            if answer.schedule is not None and not is_given_up:
                self._schedules[stream] = answer.schedule
        elif stream not in self._given_up:  # else it was asked for another device, and is asked again
            log.warning("stream %s stays on its device: its capture process did not answer", stream)
            self.placement.keep(stream, process)
        self._carry_out()


def _released(message: Message) -> Released | None:
    """Return the answer to `ReleaseStream`, None if it is malformed."""
    try:
        return Released.model_validate(message)
    except ValidationError:
        return None


def device_names(devices: Mapping[str | None, Device]) -> dict[str | None, str]:
    """Return the names of the devices by their first process. Empty where there is one device."""
    names = {device_of(process): device.name for process, device in devices.items()}
    return names if len(names) > 1 else {}
