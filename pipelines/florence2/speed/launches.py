"""Operations that a device launches for the parts of a model, by kind, counted on tensors without data.

Every operation counts once, except those that only make a view or allocate; fused attention is one operation, and so
is each function of `map_kernels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.florence2.architecture import Architecture
from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decode_batch import DecodeBatch
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.graphs import EagerRunner
from pipelines.florence2.fast.kernel_check import load_kernels
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.fast.memory_budget import Room
from pipelines.florence2.fast.speculative import DraftMode
from pipelines.florence2.fast.static_parts import static_parts
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.weights import Weights

PROMPT_TOKENS = 12
ROWS = 8
"""Frames and answers that `describe` counts for."""
DRAFT_TOKENS = 15
"""Draft tokens of each answer that `describe` counts for."""

_FUSED = {"aten::scaled_dot_product_attention"}
_FREE = {
    "aten::empty",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::new_empty",
    "aten::lift_fresh",
    "aten::detach",
    "aten::detach_",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
}
"""Operations that launch nothing and that torch does not declare as views."""


class Subject(NamedTuple):
    """The model whose operations are counted."""

    architecture: Architecture
    generation: GenerationSettings
    first_location: int
    images: ImageSettings


class LaunchCounter(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if func.namespace == "prim":
            return func(*args, **(kwargs or {}))
        if name not in _FUSED:
            # An operation that is made of others: those count.
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        if name in _FUSED:
            # The kernels of GPUs and CPUs write the heads of a position side by side, so that joining them is a view.
            result = result.transpose(1, 2).contiguous().transpose(1, 2)
        if not func.is_view and name not in _FREE:
            self.launches[name.removeprefix("aten::")] += 1
        return result


def count(function: Callable[[], object]) -> Counter[str]:
    """Return the operations of `function` by name."""
    with LaunchCounter() as counter:
        function()
    launches: Counter[str] = counter.launches
    return launches


def weights_of(architecture: Architecture, dtype: torch.dtype, device: torch.device) -> Weights:
    """Return weights without meaning."""
    made = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in architecture.shapes().items()}
    return Weights("launches", made, dtype, device)


def batch_of(subject: Subject, device: torch.device, rows: int, accepts_near: bool) -> DecodeBatch:
    """Return a batch of at most `rows` answers."""
    architecture = subject.architecture
    decoder = Decoder(weights_of(architecture, _dtype(device), device), architecture.text)
    logits_processor = LogitsProcessor(subject.generation, subject.first_location, device)
    limit = architecture.text.max_position_embeddings
    drafts: DraftMode = "near" if accepts_near else "exact"
    return DecodeBatch(decoder, logits_processor, rows, subject.images.tokens, limit, drafts, EagerRunner())


def states_of(subject: Subject, device: torch.device, rows: int) -> torch.Tensor:
    """Return the encoder's output, without meaning."""
    positions, width = subject.images.tokens + PROMPT_TOKENS, subject.architecture.text.d_model
    return torch.empty(rows, positions, width, dtype=_dtype(device), device=device)


def step_launches(
    subject: Subject, device: torch.device, rows: int, drafted: int, accepts_near: bool = False
) -> Counter[str]:
    """Return the operations of one decode step of `rows` answers whose drafts have `drafted` tokens.

    Call it within a mode for tensors without data, as of `FakeTensorMode`.
    """
    with torch.inference_mode():
        batch, states = batch_of(subject, device, rows, accepts_near), states_of(subject, device, rows)
        batch.add(states, [states.shape[1]] * rows, [80] * rows, [()] * rows)
        batch.step([[5] * drafted] * rows)
        # Prepared by the first step. On a CPU each step has another size and prepares itself.
        return count(lambda: batch.step([[5] * drafted] * rows))


def part_launches(subject: Subject, device: torch.device, rows: int) -> dict[str, Counter[str]]:
    """Return the operations on `rows` frames of 1080p, with one prompt each, by part; on a CPU on one frame.

    Call it within a mode for tensors without data.
    """
    architecture, images = subject.architecture, subject.images
    is_cpu, dtype = device.type == "cpu", _dtype(device)
    rows = 1 if is_cpu else rows
    with torch.inference_mode():
        weights = weights_of(architecture, dtype, device)
        kernels = None if is_cpu else load_kernels()
        tower = DaViT(weights, architecture.vision, images.height, images.width, kernels)
        layers = Encoder(weights, architecture.text)
        vision, encoder = (tower, layers) if is_cpu else static_parts(tower, layers, Room(rows, rows), EagerRunner())
        preprocess = Preprocessor(images, device)
        frame = np.zeros((1080, 1920, 3), np.uint8)
        pixels = torch.stack([preprocess(frame)] * rows)
        tokens = [torch.empty(images.tokens, architecture.text.d_model, dtype=dtype, device=device)] * rows
        return {
            "preprocessing, one frame": count(lambda: preprocess(frame)),
            f"vision tower, {rows} frames": count(lambda: vision(pixels.to(dtype))),
            f"encoder, {rows} rows": count(lambda: encoder(tokens, [[5] * PROMPT_TOKENS] * rows)),
        }


def describe(checkpoint: Checkpoint, tell: Callable[[str], None]) -> dict[str, dict[str, int]]:
    """Print what the fast engine launches for a checkpoint on its device, and return it as values for JSON."""
    subject = Subject(checkpoint.architecture, checkpoint.generation, checkpoint.first_location, checkpoint.images)
    found = {}
    with FakeTensorMode():
        for part, launches in _parts(subject, checkpoint.weights.device):
            found[part] = {"total": launches.total(), **dict(launches.most_common())}
            tell(f"operations, {part}: {launches.total()} ({kinds(launches)})")
    return found


def kinds(launches: Counter[str]) -> str:
    """Return the kinds of operations with their numbers as text, the most frequent first."""
    return ", ".join(f"{kind} {number}" for kind, number in launches.most_common())


def _parts(subject: Subject, device: torch.device) -> Iterator[tuple[str, Counter[str]]]:
    yield from part_launches(subject, device, ROWS).items()
    yield f"decode step, {ROWS} rows", step_launches(subject, device, ROWS, 0)
    yield f"decode step, {ROWS} rows, drafts", step_launches(subject, device, ROWS, DRAFT_TOKENS)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.bfloat16
