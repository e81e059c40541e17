"""Runs functions over preallocated tensors, as they are or recorded as CUDA graphs; copies Python data to a device.

A recorded function is launched as a whole, so the host's time per operation no longer limits a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

WARM_UP_RUNS = 1
"""Runs before a recording, in which libraries choose kernels and allocate their work space."""

Program = Callable[[], None]
"""A function whose inputs and outputs are preallocated tensors. It reads nothing back to the host, and the shapes of
its tensors do not depend on their values."""


class CaptureError(RuntimeError):
    """A program cannot be recorded as a graph. The caller can run it as it is, with an EagerRunner."""


class Runner(Protocol):
    """Prepares programs. Programs prepared on one stream never run at the same time."""

    def prepare(self, name: str, program: Program, /) -> Program:
        """Return a callable that runs `program`; `name` is for error messages. May run `program` several times.

        Raises CaptureError, and torch.OutOfMemoryError when memory is short.
        """


class EagerRunner:
    """Runs programs as they are."""

    def prepare(self, _: str, program: Program, /) -> Program:
        return program


class CudaGraphRunner:
    """Records programs as CUDA graphs. Those prepared on one stream share a memory pool."""

    def __init__(self, device: torch.device, compiles: bool = False) -> None:
        """`compiles`: programs go through torch.compile before they are recorded."""
        self._device, self._compiles = device, compiles
        self._pools: dict[int, Any] = {}
        """Memory pools by stream."""

    def prepare(self, name: str, program: Program, /) -> Program:
        try:
            return self._record(program)
        except torch.OutOfMemoryError:
            raise
        # Neither CUDA nor torch.compile has an error class for what they cannot record.
        except Exception as error:
            raise CaptureError(f"{name} cannot be recorded as a CUDA graph on {self._device}") from error

    def _record(self, program: Program) -> Program:
        if self._compiles:
            # Without graphs of its own: they would be nested in ours.
            program = compile_whole(program, mode="max-autotune-no-cudagraphs")
        # On the caller's stream, where the program would run without a graph: libraries have a work space per stream,
        # and programs of two streams that shared one would overwrite each other's sums.
        with torch.cuda.device(self._device):
            pool = self._pools.setdefault(torch.cuda.current_stream().cuda_stream, torch.cuda.graph_pool_handle())
            for _ in range(WARM_UP_RUNS):
                program()
            torch.cuda.synchronize()
            # A recording cannot free what is kept for other tensors.
            torch.cuda.empty_cache()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=pool)
            try:
                program()
            finally:
                graph.capture_end()
        replay: Program = graph.replay
        return replay


def compile_whole(program: Program, **options: str) -> Program:
    """Return `program` compiled as one function for its sizes; `options` are those of torch.compile.

    Raises an exception at the first run if a part of it cannot be compiled.
    """
    # The sizes of a step share its code: counted together, they would exceed torch's limit of 8 versions.
    return torch.compile(program, fullgraph=True, dynamic=False, isolate_recompiles=True, **options)  # type: ignore[call-overload,no-any-return]


def device_tensor(values: Sequence[Any] | NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of Python data on `device`. Does not wait for a GPU: the copy is from pinned memory."""
    made = torch.tensor(values, dtype=dtype)
    if device.type == "cpu":
        return made
    pinned = torch.empty(made.shape, dtype=dtype, pin_memory=True)
    return pinned.copy_(made).to(device, non_blocking=True)


class HostCopy:
    """Copies of tensors, on their way to the host. A GPU runs what follows meanwhile."""

    def __init__(self, *tensors: Tensor) -> None:
        device = tensors[0].device
        is_cpu = device.type == "cpu"
        self._copies = [
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=not is_cpu).copy_(tensor, non_blocking=True)
            for tensor in tensors
        ]
        self._copied = None if is_cpu else torch.cuda.current_stream(device).record_event()

    def wait(self) -> list[Tensor]:
        """Return the copies when they are complete."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copies
