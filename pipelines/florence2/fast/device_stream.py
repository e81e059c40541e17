"""Parts of the engine that run beside each other on a GPU, each in order on a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class DeviceStream:
    """A CUDA stream. On a CPU, where all operations run in order, it does nothing."""

    def __init__(self, device: torch.device, priority: int = 0, cuda: Any = torch.cuda) -> None:
        """A GPU prefers streams of `priority` -1 over those of 0. `cuda` has the calls of `torch.cuda`."""
        self.is_concurrent = device.type == "cuda"
        """True where operations of two streams can run at the same time."""
        self._device, self._cuda = device, cuda
        self._stream: Any = cuda.Stream(device, priority=priority) if self.is_concurrent else None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give this stream the operations of a `with` block."""
        if not self.is_concurrent:
            yield
            return
        with self._cuda.stream(self._stream):
            yield

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Give this stream the operations of a `with` block, after those before it and before those behind it."""
        self.fork()
        with self.active():
            yield
        self.join()

    def fork(self) -> None:
        """Let what this stream is given next start after what the current stream was given so far."""
        if self.is_concurrent:
            self._stream.wait_stream(self._cuda.current_stream(self._device))

    def join(self, results: Iterable[Tensor] = ()) -> None:
        """Let what the current stream is given next start after what this one was given so far.

        The memory of `results`, which were made here, is used again only after the current stream has read them.
        """
        if self.is_concurrent:
            current = self._cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for result in results:
                result.record_stream(current)
