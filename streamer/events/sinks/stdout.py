"""Writes events as JSON Lines to standard output, at least once.

With a limit, the agent ends after that number of results; status events do not count.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from streamer.core.errors import SinkError
from streamer.core.settings import Name
from streamer.events.sinks._base import SelectiveSinkSettings, SinkContext, SinkProgress
from streamer.types import Sink


class Stdout(SelectiveSinkSettings):
    """One event per line on standard output; logs go to standard error."""

    kind: Literal["stdout"] = "stdout"
    name: Name = "stdout"

    def open(self, context: SinkContext, progress: SinkProgress) -> Sink:
        return _StdoutSink(sys.stdout.fileno(), context.max_results, context.stop_agent)


class _StdoutSink:
    def __init__(self, fd: int, max_results: int | None, stop_agent: Callable[[], None]) -> None:
        self._fd = fd
        self._results_left = max_results
        self._stop_agent = stop_agent
        self._ended = False

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        for _, body in events:
            if self._ended:
                return
            self._print(body)
            if self._results_left is not None and json.loads(body)["type"] == "streamer.result.v1":
                self._results_left -= 1
                if self._results_left == 0:
                    self._end()

    def close(self) -> None:
        pass

    def _print(self, body: bytes) -> None:
        # Not sys.stdout: with a blocked reader it would hold its lock and block the end of the process.
        rest = memoryview(body + b"\n")
        try:
            while rest:
                select.select([], [self._fd], [])
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:  # as in `streamer watch … | head`
            self._end()
        except OSError as error:
            raise SinkError(f"standard output: {error.strerror}") from error

    def _end(self) -> None:
        self._ended = True
        self._stop_agent()
