"""Events as JSON Lines on standard output, at least once.

With a limit it ends the agent after so many results; status events do not count.
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
from streamer.events.sinks._base import SinkContext, SinkSettings
from streamer.types import Sink


class Stdout(SinkSettings):
    """One event per line on standard output; logs are on standard error."""

    kind: Literal["stdout"] = "stdout"
    name: Name = "stdout"

    def open(self, context: SinkContext) -> Sink:
        return _StdoutSink(sys.stdout.fileno(), context.max_events, context.finished)


class _StdoutSink:
    def __init__(self, fd: int, max_events: int | None, finished: Callable[[], None]) -> None:
        self._fd = fd
        self._left = max_events
        self._finished = finished
        self._over = False

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        for _, body in events:
            if self._over:
                return
            self._print(body)
            if self._left is not None and json.loads(body)["type"] == "streamer.result.v1":
                self._left -= 1
                if self._left == 0:
                    self._end()

    def close(self) -> None:
        pass

    def _print(self, body: bytes) -> None:
        # Not sys.stdout: a reader that stopped reading would block its lock, and with it the end of the process.
        rest = memoryview(body + b"\n")
        try:
            while rest:
                select.select([], [self._fd], [])
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:  # `streamer watch … | head` has seen enough
            self._end()
        except OSError as error:
            raise SinkError(f"standard output: {error.strerror}") from error

    def _end(self) -> None:
        self._over = True
        self._finished()
