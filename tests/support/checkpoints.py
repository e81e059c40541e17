"""Small checkpoints with random weights, jobs for them, and comparison of results."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.florence2.checkpoint_files import SHIPPED
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.types import Answer, Box, DueTask, Frame, Image, Job, Polygon, Quad, Result, Task

IMAGE_SIZE = 96
IMAGE_TOKENS = 10

INPUTS: dict[str, dict[str, Any]] = {
    name: {"text": "a green car, two {odd} people"}
    if spec.takes_text
    else {"region": (0.1, 0.25, 0.57, 1.0)}
    if spec.takes_region
    else {}
    for name, spec in SPECS.items()
}
"""Required config keys of each task."""


def build_checkpoint(
    folder: Path,
    *,
    tied: bool = True,
    positions: int = 128,
    seed: int = 1,
    window: int = 4,
    scale: int = 1,
    **generation: Any,
) -> Path:
    """Save a checkpoint with random weights into `folder`; `generation` overrides its generation settings.

    `scale` multiplies all widths: with 24 the weights take 0.2 GB in float32.
    """
    import torch
    from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

    from pipelines.florence2.training.checkpoint_builder import build_tokenizer, save_checkpoint

    corpus = [row.prompt for row in FLORENCE_TASKS.values()] + ["a green car in front of a yellow house, two people"]
    tokenizer: Any = build_tokenizer(corpus, 400)
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32 * scale,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64 * scale,
            "decoder_ffn_dim": 64 * scale,
            "max_position_embeddings": positions,
        },
        vision_config={
            "embed_dim": [width * scale for width in (8, 16, 16, 32)],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 4],
            "num_groups": [1, 2, 2, 4],
            "window_size": window,
            "projection_dim": 32 * scale,
        },
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.25)  # large, so that no two tokens are equally likely
    decoding = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "num_beams": 3,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        # Random weights rarely generate an end token.
        "exponential_decay_length_penalty": (6, 1.3),
        **generation,
    }
    save_checkpoint(folder, model, tokenizer, IMAGE_SIZE, IMAGE_TOKENS, GenerationConfig.from_dict(decoding))
    return folder


def make_image(seed: int = 0, width: int = 160, height: int = 120) -> Image:
    """Return random blobs of colour, BGR, read-only as in a frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), np.uint8)
    image = np.kron(coarse, np.ones((height // 5 + 1, width // 7 + 1, 1), np.uint8))[:height, :width].copy()
    image.flags.writeable = False
    return image


def make_job(task: str, image: Image | None = None, stream: str = "gate", **params: Any) -> Job:
    """Return a job with the task's required keys and `params`."""
    keys = SPECS[task].parameters.model_validate({**INPUTS[task], **params})
    frame = Frame(stream, 1, 0, 0.0, 0.0, 0.0, make_image() if image is None else image)
    return Job(DueTask(stream, Task(task, task, keys), 0.0), frame)


def shapes(answer: Answer) -> list[Box | Polygon | Quad]:
    return [*answer.boxes, *answer.polygons, *answer.quads]


def without_scores(results: Sequence[Result]) -> list[Any]:
    """Return everything but times and scores; scores differ in their last digits."""
    return [
        (
            result.outcome,
            result.error,
            result.answer.text,
            [dataclasses.replace(shape, score=None) for shape in shapes(result.answer)],
        )
        for result in results
    ]


def scores(results: Sequence[Result]) -> list[float]:
    every = [found.score for result in results for found in (result.answer, *shapes(result.answer))]
    return [-1.0 if score is None else score for score in every]


def assert_same(ours: Sequence[Result], theirs: Sequence[Result]) -> None:
    assert without_scores(ours) == without_scores(theirs)
    assert scores(ours) == pytest.approx(scores(theirs), rel=1e-3, abs=1e-6)


def changed_copy(folder: Path, noise: float) -> Path:
    """Copy the shipped small model with noise in its weights, in parts of their standard deviation."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(SHIPPED, folder)
    generator, file = torch.Generator().manual_seed(1), folder / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        spread = weight.float().std() if weight.numel() > 1 else 0.0
        random = torch.randn(weight.shape, generator=generator)
        weights[name] = (weight.float() + noise * spread * random).to(weight.dtype).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    return folder
