"""The parent's connections to the inference processes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from streamer.bus.commands import Command, CountOutcomes
from streamer.bus.result_feed import results_endpoint
from streamer.bus.rpc import Message, RpcClient, infer_socket
from streamer.inference.outcome_counts import OutcomeRows, outcome_rows


class Question(NamedTuple):
    """A question that was sent: the process that has it, and its number there."""

    process: str | None
    number: int


class InferenceClients:
    """A connection for each process, by its target."""

    def __init__(self, runtime: Path, processes: Iterable[str | None]) -> None:
        self._runtime = runtime
        self._clients = {process: RpcClient(infer_socket(runtime, process)) for process in processes}
        self._counting: set[Question] = set()
        self.outcomes: dict[str | None, OutcomeRows] = {}
        """Last answers to `count_outcomes`."""

    def __len__(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def all(self) -> list[RpcClient]:
        return list(self._clients.values())

    def of(self, process: str | None) -> RpcClient:
        return self._clients[process]

    def add(self, process: str | None) -> RpcClient:
        """Connect to a process that may start later."""
        client = self._clients[process] = RpcClient(infer_socket(self._runtime, process))
        return client

    def remove(self, process: str | None) -> None:
        """A process has ended for good."""
        self._clients.pop(process).close()
        self.outcomes.pop(process, None)
        self.remove_sockets(process)

    def remove_sockets(self, process: str | None) -> None:
        """Remove what a killed process has left behind."""
        infer_socket(self._runtime, process).unlink(missing_ok=True)
        Path(results_endpoint(self._runtime, process).removeprefix("ipc://")).unlink(missing_ok=True)

    def send(self, process: str | None, command: Command) -> Question:
        """Send a command. It is queued while the process is absent."""
        return Question(process, self._clients[process].send(**command.message()))

    def send_all(self, command: Command) -> None:
        for process in self._clients:
            self.send(process, command)

    def count_outcomes(self, process: str | None) -> None:
        """Request the outcomes of a process for `outcomes`."""
        self._counting.add(self.send(process, CountOutcomes()))

    def drop_unsent(self, process: str | None) -> None:
        """Forget what a process that has ended has not read."""
        self._clients[process].drop_unsent()
        self._counting = {question for question in self._counting if question.process != process}

    def receive(self) -> list[tuple[Question, Message]]:
        """Return the answers that have arrived."""
        answers = []
        for process, client in self._clients.items():
            answers += [(Question(process, answer["id"]), answer) for answer in client.receive()]
        for question, answer in answers:
            if question in self._counting:
                self._counting.remove(question)
                self.outcomes[question.process] = outcome_rows(answer)
        return answers
