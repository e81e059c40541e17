"""A runner that records programs as graphs, and runs those that cannot be recorded as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from pipelines.florence2.fast.graphs import CaptureError, Program, Runner
from pipelines.florence2.fast.memory_budget import is_shortage
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)


class ReplayError(RuntimeError):
    """A graph failed when it ran. From now on its program runs as it is, so the caller can repeat its work."""


class GuardedRunner:
    """Prepares programs with another runner as long as that works.

    When memory is short for one program, only this program runs as it is; after any other failure, all of them do.
    """

    def __init__(self, graphs: Runner, degrade: Callable[[str], None]) -> None:
        """`degrade` gets a message for users about each fall-back."""
        self.recorded: set[str] = set()
        """Names of the programs that run as graphs."""
        self._graphs, self._degrade = graphs, degrade
        self._works = True

    def prepare(self, name: str, program: Program, /) -> Program:
        self.recorded.discard(name)
        if not self._works:
            return program
        log.debug("recording %s as a graph", name)
        try:
            graph = self._graphs.prepare(name, program)
        except (RuntimeError, MemoryError) as error:
            if is_shortage(error):
                self._degrade(f"memory is short: {name} runs without a graph, which is slower")
                return program
            if not isinstance(error, CaptureError):
                raise
            self._works = False
            self._degrade(f"{error}, {reason_of(error.__cause__ or error, 'graphs')}: no graphs, which is slower")
            return program
        self.recorded.add(name)
        return self._guarded(name, graph, program)

    def _guarded(self, name: str, graph: Program, program: Program) -> Program:
        def run() -> None:
            if name not in self.recorded:
                program()
                return
            try:
                graph()
            except torch.AcceleratorError:
                raise  # The device is in an unknown state; only a new process helps.
            except Exception as error:
                if is_shortage(error):
                    raise
                self.recorded.discard(name)
                self._degrade(f"the graph of {name} failed, {reason_of(error, 'graphs')}: it runs without, slower")
                raise ReplayError(name) from error

        return run
