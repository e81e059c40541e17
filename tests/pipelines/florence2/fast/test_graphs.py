"""Runners of programs, and the copy of Python data to a device."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from pipelines.florence2.fast.graphs import CaptureError, CudaGraphRunner, EagerRunner, device_tensor
from tests.support.fake_cuda import DEVICE, fake_cuda


def test_eager_runner_runs_the_program_itself() -> None:
    count = torch.zeros(1)
    run = EagerRunner().prepare("count", lambda: count.add_(1))  # type: ignore[arg-type]
    assert count == 0, "nothing runs before the call"
    run()
    run()
    assert count == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch without CUDA")
def test_failed_recording_names_the_program() -> None:
    with pytest.raises(CaptureError, match="step of 8 rows cannot be recorded as a CUDA graph on cuda:0"):
        CudaGraphRunner(DEVICE).prepare("step of 8 rows", lambda: None)


def test_python_data_becomes_a_tensor_on_the_device() -> None:
    assert device_tensor([[1, 2], [3, 4]], torch.long, torch.device("cpu")).tolist() == [[1, 2], [3, 4]]
    with fake_cuda():
        made = device_tensor([1], torch.long, DEVICE)
        assert (made.device, made.shape, made.dtype) == (DEVICE, (1,), torch.long)


def test_fake_device_refuses_host_reads_and_mixed_devices() -> None:
    with fake_cuda():
        made = torch.zeros(2, device=DEVICE)
        made[:1] = 1
        with pytest.raises(DataDependentOutputException):
            int(made[0])
        with pytest.raises(RuntimeError, match="devices"):
            made + torch.zeros(2)
