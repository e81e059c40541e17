"""Runners of graphs for a CPU, some of which fail as a graphics card can fail, and a pipeline that uses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.florence2.fast.graphs import CaptureError, Program
from pipelines.florence2.pipeline import Florence2


class FakeGraphs:
    """Runs the programs themselves, and counts what it recorded and replayed."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.replays = 0

    def prepare(self, name: str, program: Program, /) -> Program:
        self.names.append(name)

        def replay() -> None:
            self.replays += 1
            self.replay(name, program)

        return replay

    def replay(self, name: str, program: Program) -> None:
        program()


class FailsToRecord(FakeGraphs):
    """Raises an error for each program that `matches`."""

    def __init__(self, error: Callable[[], Exception], matches: Callable[[str], bool] = lambda _: True) -> None:
        super().__init__()
        self._error, self._matches = error, matches

    def prepare(self, name: str, program: Program, /) -> Program:
        if self._matches(name):
            raise self._error()
        return super().prepare(name, program)


class FailsToRun(FakeGraphs):
    """Raises an error in some replays."""

    def __init__(self, error: Callable[[], Exception], fails: Callable[[int, str], bool]) -> None:
        """`fails` gets the number of the replay, from 1, and the name of the program."""
        super().__init__()
        self._error, self._fails = error, fails

    def replay(self, name: str, program: Program) -> None:
        if self._fails(self.replays, name):
            raise self._error()
        program()


class WrongTokens(FakeGraphs):
    """Chooses another token than the best one in every step."""

    def replay(self, name: str, program: Program) -> None:
        with _OtherToken():  # type: ignore[no-untyped-call]
            program()


class Nothing(FakeGraphs):
    """Replays graphs that do nothing."""

    def replay(self, name: str, program: Program) -> None:
        pass


class _OtherToken(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found ^ 1 if func is torch.ops.aten.argmax.default else found


def cannot_record() -> Exception:
    return CaptureError("the step for 4 rows cannot be recorded as a CUDA graph on cuda:0")


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")


def failed() -> Exception:
    return RuntimeError("CUDA error: invalid argument")


wrong_tokens = Florence2(graphs=lambda _: WrongTokens())
"""A pipeline whose graphs choose wrong tokens."""
