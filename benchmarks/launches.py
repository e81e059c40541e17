"""Operations that a GPU launches for one decode step, by kind: `python -m benchmarks.launches`.

The step runs with Florence-2 base and large on tensors without data, as it would on `cuda` or on a CPU. Every operation
counts once, except those that only make a view or allocate; fused attention is one operation.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.report import merge
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.fast.decode_batch import DecodeBatch
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.graphs import EagerRunner
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.speed.random_checkpoint import IMAGE_TOKENS, SIZES
from pipelines.florence2.weights import Weights
from tests.support.fake_cuda import DEVICE, fake_cuda

MODELS = {
    name: Architecture.model_validate({**sizes, "text_config": {**sizes["text_config"], "vocab_size": 51328}})
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
WIDTHS = {"without drafts": 0, "drafts of 15 tokens": 15}

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="answers that are generated together [8]")
    parser.add_argument("--write", metavar="NAME", help="store the counts under this name in results/launches.json")
    args = parser.parse_args()
    counts: dict[str, dict[str, Any]] = {}
    for model, architecture in MODELS.items():
        for device in (DEVICE, torch.device("cpu")):
            for width, tokens in WIDTHS.items():
                found = step_launches(architecture, device, args.rows, tokens)
                name = f"{model}, {device.type}, {width}"
                counts[name] = {"total": found.total(), **dict(found.most_common())}
                print(f"{name}: {found.total()}\n    " + ", ".join(f"{kind} {n}" for kind, n in found.most_common()))
    if args.write:
        merge("launches", {args.write: counts})


if __name__ == "__main__":
    main()
