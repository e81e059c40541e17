"""Architecture, initial weights, auxiliary heads and losses of the small model.

Training fails from the default initial weights. Image position embeddings must start large, location embeddings as
smooth functions of position, and an auxiliary head that reads the objects off the image tokens trains the vision tower
in minutes (docs/decisions/0007-the-small-model.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig, PreTrainedTokenizerFast

from pipelines.florence2.training.checkpoint_builder import BINS
from streamer.toyworld.paint import COLOURS
from streamer.toyworld.world import KINDS

IMAGE_SIZE = 192
GRID = 12
"""Image tokens per side."""
IMAGE_TOKENS = GRID * GRID + 1
WIDTH = 160
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DENSE_CHANNELS = (1, len(COLOURS), len(KINDS), 4, len(ALPHABET) + 1, len(ALPHABET) + 1, 8)
"""Output sizes of the dense head per image token: object presence, colour, kind, box; letters on the left and the right
half (0 for none), and the corners of their word."""
DENSE_COLUMNS = 17
"""Columns of the dense truth: presence, colour, kind, x0, y0, x1, y1, left letter, right letter, eight of corners."""


def build_model(tokenizer: PreTrainedTokenizerFast) -> Florence2ForConditionalGeneration:
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": WIDTH,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 5,
            "decoder_attention_heads": 5,
            "encoder_ffn_dim": 2 * WIDTH,
            "decoder_ffn_dim": 2 * WIDTH,
            "max_position_embeddings": 512,
            "dropout": 0.0,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
        },
        vision_config={
            "embed_dim": [32, 64, 112, WIDTH],
            "depths": [1, 1, 1, 1],
            "num_heads": [2, 4, 4, 5],
            "num_groups": [2, 4, 4, 5],
            "patch_size": [9, 3, 3, 3],
            "patch_stride": [8, 2, 1, 1],
            "patch_padding": [4, 1, 1, 1],
            "window_size": 6,
            "projection_dim": WIDTH,
            "drop_path_rate": 0.0,
        },
        image_token_id=tokenizer.get_vocab()["<image>"],
    )
    model = Florence2ForConditionalGeneration(config)
    _initialise(model, tokenizer.get_vocab()["<loc_0>"])
    return model


def _initialise(model: Florence2ForConditionalGeneration, first_location: int) -> None:
    for name, weights in model.named_parameters():
        if weights.dim() < 2 or "norm" in name:
            continue
        if "conv" in name:
            depthwise = weights.shape[1] == 1
            if depthwise:
                nn.init.normal_(weights, std=0.1)
            else:
                nn.init.kaiming_normal_(weights, nonlinearity="linear")
        elif "image_position_embed" in name:
            nn.init.normal_(weights, std=0.5)
        elif "embed" in name or "shared" in name:
            nn.init.normal_(weights, std=0.05)
        else:
            nn.init.xavier_uniform_(weights)
    position = torch.arange(BINS)[:, None] / BINS
    waves = torch.exp(torch.linspace(0, math.log(200.0), WIDTH // 2))[None] * 2 * math.pi
    rows = 0.05 * torch.cat([torch.sin(position * waves), torch.cos(position * waves)], dim=1)
    with torch.no_grad():
        model.model.language_model.shared.weight[first_location : first_location + BINS] = rows


class Heads(nn.Module):
    """Auxiliary heads, used in training only.

    `dense` predicts what is on each image token, `referenced` whether the answer refers to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, sum(DENSE_CHANNELS)))
        self.referenced = nn.Linear(WIDTH, 1)


def generation_config() -> GenerationConfig:
    """Return Florence-2's settings without the ban on repeated 3-grams: `small red ring` may occur twice."""
    return GenerationConfig(
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        num_beams=3,
        early_stopping=True,
        max_length=256,
    )


class Losses(nn.Module):
    """Losses of the answers' tokens and of the two auxiliary heads."""

    softened: Tensor
    positions: Tensor

    def __init__(self, first_location: int, sigma: float = 6.0) -> None:
        super().__init__()
        self.first, self.last = first_location, first_location + BINS
        bins = torch.arange(BINS, dtype=torch.float32)
        near = torch.exp(-0.5 * ((bins[:, None] - bins[None]) / sigma) ** 2)
        self.register_buffer("softened", near / near.sum(1, keepdim=True))
        self.register_buffer("positions", (bins + 0.5) / BINS)

    def answers(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return cross entropy plus the error of the mean location; a location's target is spread over its neighbours.

        logits (N, V); labels (N).
        """
        logs = torch.log_softmax(logits.float(), dim=-1)
        located = (labels >= self.first) & (labels < self.last)
        words = -logs[~located].gather(1, labels[~located][:, None]).sum()
        bins = labels[located] - self.first
        log_probs = logs[located][:, self.first : self.last]
        mean_error = (log_probs.exp() @ self.positions - self.positions[bins]).abs().sum()
        return (2 * words - (self.softened[bins] * log_probs).sum() + 8 * mean_error) / len(labels)

    def dense(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return the dense head's loss: found (B, cells, sum(DENSE_CHANNELS)); truth (B, cells, DENSE_COLUMNS)."""
        there, colour, kind, box, left, right, quad = found.float().split(DENSE_CHANNELS, dim=-1)
        on_thing, on_word = truth[..., 0] > 0, truth[..., 7:9].amax(dim=-1) > 0
        loss = 3 * _binary(there[..., 0], truth[..., 0])
        loss = loss + nn.functional.cross_entropy(colour[on_thing], truth[on_thing][:, 1].long())
        loss = loss + nn.functional.cross_entropy(kind[on_thing], truth[on_thing][:, 2].long())
        loss = loss + 20 * nn.functional.l1_loss(box[on_thing].sigmoid(), truth[on_thing][:, 3:7])
        weights = found.new_ones(len(ALPHABET) + 1, dtype=torch.float32)
        weights[0] = 0.05
        for letters, column in ((left, 7), (right, 8)):
            loss = loss + 2 * nn.functional.cross_entropy(
                letters.flatten(0, 1), truth[..., column].flatten().long(), weights
            )
        if bool(on_word.any()):
            loss = loss + 20 * nn.functional.l1_loss(quad[on_word].sigmoid(), truth[on_word][:, 9:])
        return loss

    def referenced(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of the head that marks image tokens the answer refers to: found, truth (rows, cells)."""
        return _binary(found.float(), truth)


def _binary(found: Tensor, truth: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(found, truth, pos_weight=found.new_tensor(4.0))


@torch.no_grad()
def start_from(
    model: Florence2ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    other: Florence2ForConditionalGeneration,
    other_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Copy another model's weights into `model`: embedding rows by token, the first filter resized."""
    theirs = other.float().state_dict()
    rows = {token: row for token, row in other_tokenizer.get_vocab().items()}
    known = [(row, rows[token]) for token, row in tokenizer.get_vocab().items() if token in rows]
    ours, other_rows = (torch.tensor(column) for column in zip(*known, strict=True))
    for name, weights in model.state_dict().items():
        source = theirs[name]
        if weights.shape == source.shape:
            weights.copy_(source)
        elif weights.dim() == 4:
            scale = source[0, 0].numel() / weights[0, 0].numel()
            weights.copy_(scale * nn.functional.interpolate(source, weights.shape[2:], mode="bilinear"))
        elif weights.dim() == 2 and len(weights) == len(tokenizer):
            weights[ours] = source[other_rows]
