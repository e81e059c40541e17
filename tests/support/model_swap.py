"""An agent whose model is swapped: eight streams, models for it, and commands to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamer.bus.commands import Command, ListModels, UseModel
from streamer.bus.rpc import Message, RpcClient, control_socket
from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until

START_S = 120.0
STREAMS = [f"cam{number}" for number in range(8)]
CAMERA = {"source": "synthetic?fps=10&size=64x48", "tasks": [{"task": "caption", "every": "500ms"}]}


class Home:
    """An agent with eight streams, and models for it."""

    def __init__(
        self, folder: Path, streams: Sequence[str] = STREAMS, devices: int = 1, others: Mapping[str, Any] | None = None
    ) -> None:
        """`others`: further streams, as in a config, of which nothing is expected."""
        self.folder, self.streams, self.devices = folder, streams, devices
        self.environment = faulty.install(folder / "installed")
        cameras = {**dict.fromkeys(streams, CAMERA), **(others or {})}
        self.file = faulty.config(folder, cameras, {"step": 0.001, "devices": devices})
        self.held = folder / "held"
        """While this file exists, models with it as `loading` do not finish it."""

    def model(self, name: str, watch_s: float = 1, **settings: Any) -> UseModel:
        """Write a checkpoint and return the command that uses it. In `settings`, `.` is a file that exists."""
        settings = {key: str(self.file) if value == "." else value for key, value in settings.items()}
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps({"step": 0.001, **settings}))
        found = faulty.pipeline.identify(faulty.FaultySettings(checkpoint=str(file)))
        return UseModel(checkpoint=str(file), name=found[0], hash=found[1], watch_s=watch_s)

    @contextmanager
    def run(self) -> Iterator[Running]:
        events = self.folder / "events.jsonl"
        with RunningAgent(self.folder, ["run", str(self.file)], events, self.environment) as agent:
            running = Running(agent, self.streams, self.devices)
            try:
                running.wait_for_answers("")
                yield running
            finally:
                running.close()


class Running:
    """The running agent with a connection for commands."""

    def __init__(self, agent: RunningAgent, streams: Sequence[str], devices: int) -> None:
        self.agent, self._streams, self._devices = agent, streams, devices
        self._known_states = 0
        self._client = RpcClient(control_socket(agent.folder / "run" / "streamer" / "home"))

    def close(self) -> None:
        self._client.close()

    def send(self, command: Command) -> None:
        self._client.send(**command.message())

    def answer(self) -> Message:
        (found,) = until(self._client.receive, START_S, f"an answer; {self.agent.log()}")
        return found

    def call(self, command: Command) -> Message:
        self.send(command)
        return self.answer()

    def states(self) -> list[tuple[str, str]]:
        """Return state and model of the new events about models."""
        found = [event for event in self.agent.events() if event["subject"].startswith("model.")]
        return [(one["data"]["state"], one["data"]["model"].partition("@")[0]) for one in found[self._known_states :]]

    def forget_states(self) -> None:
        self._known_states += len(self.states())

    def wait_for_states(self, *expected: tuple[str, str]) -> None:
        until(lambda: self.states() == [*expected], START_S, f"{expected}: {self.agent.log()}")

    def wait_until_over(self) -> None:
        def is_over() -> bool:
            return len(self.processes()) == self._devices and "swap" not in self.call(ListModels())

        until(is_over, START_S, "the swap is over")

    def processes(self) -> set[str]:
        """Return the names of the inference processes."""
        return {name for name in self.agent.children() if name.partition(":")[0] == "infer"}

    def wait_for_answers(self, model: str) -> None:
        """Wait until each stream has two more answers of a model, whose name begins so."""
        known = len(self.agent.results())

        def answered() -> bool:
            new = [one["data"] for one in self.agent.results()[known:]]
            return all(
                sum(one["stream"] == stream and one["model"].startswith(model) for one in new) >= 2
                for stream in self._streams
            )

        until(answered, START_S, f"answers of {model}; {self.agent.log()}")

    def stop(self) -> None:
        """Stop the agent, and check that each frame and each job is counted once."""
        self.agent.stop(30)
        assert_no_duplicates(self.agent.events())
        for one in self.agent.results():  # also those of jobs that an ended process left
            assert re.fullmatch(r"\w+(@[0-9a-f]{12})?", one["data"]["model"]), one
        for stream in self._streams:
            frames = self.agent.statuses("stream.stopped", stream)[-1]["data"]["frames"]
            assert_identity(frames)
            assert frames["in_flight"] == 0
