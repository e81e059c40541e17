"""Tensors without data on a CUDA device that is not there, to run the code of a GPU with a torch for CPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("cuda", 0)
_CUDA, _META = 1, 14
"""Indexes in torch's table of device guards (c10/core/DeviceType.h)."""


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Make every new tensor one without data.

    Operations compute shapes, types and devices only. They raise an exception for operands on different devices, and
    for every value or shape that the host would have to read from a tensor.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    # A torch for CPUs has no guard for CUDA, without which it cannot index a tensor. The guard of `meta` does nothing.
    before, guards[_CUDA] = guards[_CUDA], guards[_CUDA] or guards[_META]
    try:
        with FakeTensorMode() as mode:
            yield mode
    finally:
        guards[_CUDA] = before
