"""Checkpoints of the published sizes with random weights: as fast as the real ones, without their download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from pipelines.florence2.tasks import FLORENCE_TASKS
from pipelines.florence2.training.checkpoint_builder import build_tokenizer, save_checkpoint

SIDE, IMAGE_TOKENS = 768, 577
"""Side of a picture in pixels, and its tokens in the encoder."""
VOCABULARY = 51328
_TOKENIZER = 2000
"""Entries of the tokenizer's text part. It only has to encode the prompts; the model has the published vocabulary."""

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "base": {
        "text_config": {
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
            "max_position_embeddings": 1024,
        },
        "vision_config": {
            "embed_dim": [128, 256, 512, 1024],
            "num_heads": [4, 8, 16, 32],
            "num_groups": [4, 8, 16, 32],
            "projection_dim": 768,
        },
    },
    "large": {
        "text_config": {
            "d_model": 1024,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 16,
            "decoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "decoder_ffn_dim": 4096,
            "max_position_embeddings": 4096,
        },
        "vision_config": {
            "embed_dim": [256, 512, 1024, 2048],
            "num_heads": [8, 16, 32, 64],
            "num_groups": [8, 16, 32, 64],
            "projection_dim": 1024,
        },
    },
}
"""Sizes of the published models by name."""


def random_model(size: str = "base") -> tuple[Any, Any, GenerationConfig]:
    """Return a model of transformers with random weights, its tokenizer, and settings whose answers never end."""
    corpus = [row.prompt for row in FLORENCE_TASKS.values()]
    tokenizer: Any = build_tokenizer(corpus, _TOKENIZER)
    text, vision = SIZES[size]["text_config"], SIZES[size]["vision_config"]
    config = Florence2Config(
        text_config={"model_type": "bart", "vocab_size": VOCABULARY, **text},
        vision_config={"depths": [1, 1, 9, 1], "window_size": 12, **vision},
        image_token_id=tokenizer.image_token_id,
    )
    torch.manual_seed(1)
    model: Any = Florence2ForConditionalGeneration(config)
    generation = GenerationConfig(
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        no_repeat_ngram_size=3,
        suppress_tokens=[2],
    )
    model.generation_config = generation
    return model.eval().requires_grad_(False), tokenizer, generation


def save_random(size: str, folder: Path) -> None:
    """Save a checkpoint as published ones are: in float16."""
    model, tokenizer, generation = random_model(size)
    save_checkpoint(folder, model.half(), tokenizer, SIDE, IMAGE_TOKENS, generation)
