"""Kernels for graphics cards, which Triton interprets on the CPU here, and the check of them at start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast import kernel_check
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.kernel_check import differences, load_kernels, usable_kernels
from tests.support.fake_cuda import DEVICE

CPU = torch.device("cpu")


# The interpreter has no products in bfloat16.
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_kernels_equal_plain_operations(dtype: torch.dtype, limit: float) -> None:
    kernels = load_kernels()
    assert kernels is not None
    errors = dict(differences(kernels, CPU, dtype))
    assert len(errors) == 5
    assert max(errors.values()) < limit


@torch.inference_mode()
@pytest.mark.parametrize("side", [96, 100])
def test_tower_with_kernels_equals_plain_one(side: int) -> None:
    """Windows do not fill the feature maps of the second size."""
    opened = load(open_folder(None), "cpu", "float32")
    plain, fused = (
        DaViT(opened.weights, opened.architecture.vision, side, side, kernels) for kernels in (None, load_kernels())
    )
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    wanted = plain(pixels)
    assert (fused(pixels) - wanted).norm() < 1e-5 * wanted.norm()


def test_only_cards_with_16_bits_have_kernels() -> None:
    assert usable_kernels(CPU, torch.bfloat16) == (None, None)
    assert usable_kernels(DEVICE, torch.float32) == (None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a torch without CUDA")
def test_kernels_that_do_not_run_are_not_used() -> None:
    kernels, fault = usable_kernels(DEVICE, torch.bfloat16)
    assert kernels is None
    assert fault is not None
    assert fault.startswith("the kernels of the vision tower do not run on cuda:0, ")
    assert "Traceback" not in fault


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_wrong_kernels_are_not_used(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    def wrong(*_: Any) -> Iterator[tuple[str, float]]:
        yield from (("norm", error), ("windows", 0.0))

    monkeypatch.setattr(kernel_check, "differences", wrong)
    kernels, fault = usable_kernels(DEVICE, torch.bfloat16)
    assert kernels is None
    assert fault == (
        "the kernels of the vision tower give wrong results on cuda:0 (norm): plain operations, which are slower"
    )


def test_card_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_check, "find_spec", lambda _: None)
    assert usable_kernels(DEVICE, torch.float16) == (
        None,
        "Triton is not installed: plain operations, which are slower",
    )
