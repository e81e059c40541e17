"""Operations that a GPU launches, by kind: `python -m benchmarks.launches`.

Preprocessing, vision tower, encoder and one decode step run with Florence-2 base and large on tensors without data, as
they would on `cuda` or on a CPU. Every operation counts once, except those that only make a view or allocate; fused
attention is one operation.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Florence2Config, Florence2ForConditionalGeneration

from benchmarks.report import merge
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decode_batch import DecodeBatch
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.graphs import EagerRunner
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.fast.memory_budget import Room
from pipelines.florence2.fast.static_parts import static_parts
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.speed.random_checkpoint import IMAGE_TOKENS, SIDE, SIZES, VOCABULARY
from pipelines.florence2.weights import Weights
from tests.support.fake_cuda import DEVICE, fake_cuda

MODELS = {
    name: Architecture.model_validate({**sizes, "text_config": {**sizes["text_config"], "vocab_size": VOCABULARY}})
    for name, sizes in SIZES.items()
}
GENERATION = GenerationSettings(
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=2,
    forced_bos_token_id=0,
    no_repeat_ngram_size=3,
)
"""The settings of the published checkpoints that greedy search uses."""
FIRST_LOCATION = 50269
PROMPT_TOKENS = 12
IMAGES = ImageSettings.read("published", {"size": {"height": SIDE, "width": SIDE}})
WIDTHS = {"without drafts": 0, "drafts of 15 tokens": 15}
"""Draft tokens of each decode step by name."""

_FUSED = {"aten::scaled_dot_product_attention"}
_FREE = {
    "aten::empty",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::new_empty",
    "aten::lift_fresh",
    "aten::detach",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
}
"""Operations that launch nothing and that torch does not declare as views."""


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


def batch_of(architecture: Architecture, device: torch.device, rows: int) -> DecodeBatch:
    """Return a batch of at most `rows` answers, with near drafts."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    decoder = Decoder(weights_of(architecture, dtype, device), architecture.text)
    logits_processor = LogitsProcessor(GENERATION, FIRST_LOCATION, device)
    limit = architecture.text.max_position_embeddings
    return DecodeBatch(decoder, logits_processor, rows, IMAGE_TOKENS, limit, False, EagerRunner())


def states_of(architecture: Architecture, device: torch.device, rows: int, positions: int) -> torch.Tensor:
    """Return the encoder's output, without meaning."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.empty(rows, positions, architecture.text.d_model, dtype=dtype, device=device)


def step_launches(architecture: Architecture, device: torch.device, rows: int, drafted: int) -> Counter[str]:
    """Return the operations of one decode step of `rows` answers whose drafts have `drafted` tokens."""
    positions = IMAGE_TOKENS + PROMPT_TOKENS
    with fake_cuda(), torch.inference_mode():
        batch = batch_of(architecture, device, rows)
        states = states_of(architecture, device, rows, positions)
        batch.add(states, [positions] * rows, [80] * rows, [()] * rows)
        batch.step([[5] * drafted] * rows)
        # Prepared by the first step. On a CPU each step has another size and prepares itself.
        return count(lambda: batch.step([[5] * drafted] * rows))


def part_launches(architecture: Architecture, device: torch.device, rows: int) -> dict[str, Counter[str]]:
    """Return the operations on `rows` frames of 1080p, with one prompt each, by part; on a CPU on one frame."""
    is_cpu = device.type == "cpu"
    dtype = torch.float32 if is_cpu else torch.bfloat16
    rows = 1 if is_cpu else rows
    with fake_cuda(), torch.inference_mode():
        weights = weights_of(architecture, dtype, device)
        tower, layers = DaViT(weights, architecture.vision, SIDE, SIDE), Encoder(weights, architecture.text)
        vision, encoder = (tower, layers) if is_cpu else static_parts(tower, layers, Room(rows, rows), EagerRunner())
        preprocess = Preprocessor(IMAGES, device)
        frame = np.zeros((1080, 1920, 3), np.uint8)
        pixels = torch.stack([preprocess(frame)] * rows)
        images = [torch.empty(IMAGE_TOKENS, architecture.text.d_model, dtype=dtype, device=device)] * rows
        return {
            "preprocessing, one frame": count(lambda: preprocess(frame)),
            f"vision tower, {rows} frames": count(lambda: vision(pixels.to(dtype))),
            f"encoder, {rows} rows": count(lambda: encoder(images, [[5] * PROMPT_TOKENS] * rows)),
        }


def transformers_launches(model: str) -> Counter[str]:
    """Return the operations of the vision tower of transformers on one frame."""
    config: Any = Florence2Config
    with torch.device("meta"), torch.inference_mode():
        network: Any = Florence2ForConditionalGeneration(config(**SIZES[model])).eval()
        return count(lambda: network.model.get_image_features(torch.empty(1, 3, SIDE, SIDE)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="answers that are generated together [8]")
    parser.add_argument("--write", metavar="NAME", help="store the counts under this name in results/launches.json")
    args = parser.parse_args()
    counts: dict[str, dict[str, Any]] = {}
    for model, architecture in MODELS.items():
        for device in (DEVICE, torch.device("cpu")):
            parts = part_launches(architecture, device, args.rows)
            for width, tokens in WIDTHS.items():
                parts[width] = step_launches(architecture, device, args.rows, tokens)
            if device == DEVICE:
                parts["vision tower of transformers, one frame"] = transformers_launches(model)
            for part, found in parts.items():
                name = f"{model}, {device.type}, {part}"
                counts[name] = {"total": found.total(), **dict(found.most_common())}
                print(f"{name}: {found.total()}\n    " + ", ".join(f"{kind} {n}" for kind, n in found.most_common()))
    if args.write:
        merge("launches", {args.write: counts})


if __name__ == "__main__":
    main()
