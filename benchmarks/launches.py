"""Operations that a GPU launches, by kind: `python -m benchmarks.launches`.

Preprocessing, vision tower, encoder and one decode step run with Florence-2 base and large on tensors without data, as
they would on `cuda` or on a CPU. `pipelines/florence2/speed/launches.py` counts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

from benchmarks.report import merge
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.speed import launches
from pipelines.florence2.speed.launches import DRAFT_TOKENS, Subject, count, kinds
from pipelines.florence2.speed.random_checkpoint import SIDE, SIZES, VOCABULARY
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
IMAGES = ImageSettings.read("published", {"size": {"height": SIDE, "width": SIDE}})
WIDTHS = {
    "without drafts": (0, False),
    f"drafts of {DRAFT_TOKENS} tokens": (DRAFT_TOKENS, False),
    f"near drafts of {DRAFT_TOKENS} tokens": (DRAFT_TOKENS, True),
}
"""Draft tokens of each decode step, and whether near locations are accepted, by name."""


def subject(architecture: Architecture) -> Subject:
    """Return a model of this architecture with the settings of the published checkpoints."""
    return Subject(architecture, GENERATION, FIRST_LOCATION, IMAGES)


def step_launches(
    architecture: Architecture, device: torch.device, rows: int, drafted: int, accepts_near: bool = False
) -> Counter[str]:
    """Return the operations of one decode step of `rows` answers whose drafts have `drafted` tokens."""
    with fake_cuda():
        return launches.step_launches(subject(architecture), device, rows, drafted, accepts_near)


def part_launches(architecture: Architecture, device: torch.device, rows: int) -> dict[str, Counter[str]]:
    """Return the operations on `rows` frames of 1080p, with one prompt each, by part; on a CPU on one frame."""
    with fake_cuda():
        return launches.part_launches(subject(architecture), device, rows)


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
            for width, (tokens, near) in WIDTHS.items():
                parts[width] = step_launches(architecture, device, args.rows, tokens, near)
            if device == DEVICE:
                parts["vision tower of transformers, one frame"] = transformers_launches(model)
            for part, found in parts.items():
                name = f"{model}, {device.type}, {part}"
                counts[name] = {"total": found.total(), **dict(found.most_common())}
                print(f"{name}: {found.total()}\n    " + kinds(found))
    if args.write:
        merge("launches", {args.write: counts})


if __name__ == "__main__":
    main()
