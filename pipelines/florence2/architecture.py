"""The sizes of a Florence-2 model, read from its config.json, and the names and shapes of its weights.

Defaults and names are those of transformers, which writes only some of them into a config.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from streamer.core.errors import ConfigError
from streamer.core.settings import in_words

Shape = tuple[int, ...]

POSITION_OFFSET = 2
"""Rows at the start of BART's position tables that no position uses."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Vision(_Part):
    """Sizes of the vision tower and the projector behind it; lists hold one value per stage."""

    in_channels: PositiveInt = 3
    depths: tuple[PositiveInt, ...] = (1, 1, 9, 1)
    patch_size: tuple[PositiveInt, ...] = (7, 3, 3, 3)
    patch_stride: tuple[PositiveInt, ...] = (4, 2, 2, 2)
    patch_padding: tuple[NonNegativeInt, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    embed_dim: tuple[PositiveInt, ...] = (128, 256, 512, 1024)
    num_heads: tuple[PositiveInt, ...] = (4, 8, 16, 32)
    num_groups: tuple[PositiveInt, ...] = (4, 8, 16, 32)
    window_size: PositiveInt = 12
    mlp_ratio: float = Field(default=4.0, gt=0)
    qkv_bias: bool = True
    activation_function: str = "gelu"
    projection_dim: PositiveInt = 1024
    max_temporal_embeddings: PositiveInt = 100
    max_position_embeddings: PositiveInt = 50


class Text(_Part):
    """Sizes of the text encoder and decoder."""

    vocab_size: PositiveInt = 50265
    max_position_embeddings: PositiveInt = 1024
    encoder_layers: PositiveInt = Field(12, validation_alias=AliasChoices("encoder_layers", "num_hidden_layers"))
    encoder_ffn_dim: PositiveInt = 4096
    encoder_attention_heads: PositiveInt = Field(
        16, validation_alias=AliasChoices("encoder_attention_heads", "num_attention_heads")
    )
    decoder_layers: PositiveInt = 12
    decoder_ffn_dim: PositiveInt = 4096
    decoder_attention_heads: PositiveInt = 16
    activation_function: str = "gelu"
    d_model: PositiveInt = Field(1024, validation_alias=AliasChoices("d_model", "hidden_size"))
    scale_embedding: bool = False

    @property
    def scale(self) -> float:
        """Factor of the token embedding."""
        return math.sqrt(self.d_model) if self.scale_embedding else 1.0


class Architecture(_Part):
    """Sizes of a whole model."""

    vision: Vision = Field(default=Vision(), validation_alias="vision_config")
    text: Text = Field(default=Text(), validation_alias="text_config")

    @classmethod
    def read(cls, name: str, config: Mapping[str, Any]) -> Architecture:
        """Read a config.json. Raises ConfigError when a value cannot be used."""
        try:
            found = cls.model_validate(config)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"checkpoint {name} cannot be loaded: its config.json has a wrong {place}: {in_words(first)}"
            ) from None
        vision, text = found.vision, found.text
        lists = [value for value in dict(vision).values() if isinstance(value, tuple)]
        if len({len(value) for value in lists}) != 1:
            raise ConfigError(f"checkpoint {name} cannot be loaded: its config.json has lists of different length")
        parts = [*zip(vision.embed_dim, vision.num_heads, strict=True)]
        parts += [*zip(vision.embed_dim, vision.num_groups, strict=True)]
        parts += [(text.d_model, text.encoder_attention_heads), (text.d_model, text.decoder_attention_heads)]
        if any(width % count for width, count in parts):
            raise ConfigError(
                f"checkpoint {name} cannot be loaded: its config.json has a width not divisible by its heads"
            )
        return found

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of each weight that the model needs, by name; a tied output head is the embedding."""
        return dict([*_vision_tower(self.vision), *_projector(self.vision), *_language_model(self.text)])

    def parameters(self) -> int:
        """Return the number of weights, a tied output head counted once."""
        return sum(map(math.prod, self.shapes().values()))


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _convolution(name: str, outputs: int, inputs: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, side, side)
    yield f"{name}.bias", (outputs,)


def _vision_tower(vision: Vision) -> Iterator[tuple[str, Shape]]:
    tower = "model.vision_tower"
    before = vision.in_channels
    for stage, width in enumerate(vision.embed_dim):
        yield from _convolution(f"{tower}.convs.{stage}.conv", width, before, vision.patch_size[stage])
        yield from _norm(f"{tower}.convs.{stage}.norm", before if vision.patch_prenorm[stage] else width)
        for depth in range(vision.depths[stage]):
            for kind, attention in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
                block, inner = f"{tower}.blocks.{stage}.{depth}.{kind}", int(width * vision.mlp_ratio)
                for part in "12":
                    yield from _convolution(f"{block}.conv{part}", width, 1, 3)
                    yield from _norm(f"{block}.norm{part}", width)
                yield from _linear(f"{block}.{attention}.qkv", 3 * width, width, vision.qkv_bias)
                yield from _linear(f"{block}.{attention}.proj", width, width)
                yield from _linear(f"{block}.ffn.fc1", inner, width)
                yield from _linear(f"{block}.ffn.fc2", width, inner)
        before = width


def _projector(vision: Vision) -> Iterator[tuple[str, Shape]]:
    projector, width, positions = "model.multi_modal_projector", vision.embed_dim[-1], vision.max_position_embeddings
    yield f"{projector}.image_projection.weight", (vision.projection_dim, width)
    yield from _norm(f"{projector}.image_proj_norm", vision.projection_dim)
    yield f"{projector}.image_position_embed.row_embeddings.weight", (positions, width // 2)
    yield f"{projector}.image_position_embed.column_embeddings.weight", (positions, width - width // 2)
    yield f"{projector}.visual_temporal_embed.pos_idx_to_embed", (vision.max_temporal_embeddings, width)


def _language_model(text: Text) -> Iterator[tuple[str, Shape]]:
    model, width = "model.language_model", text.d_model
    yield f"{model}.shared.weight", (text.vocab_size, width)
    for part, count, inner in (
        ("encoder", text.encoder_layers, text.encoder_ffn_dim),
        ("decoder", text.decoder_layers, text.decoder_ffn_dim),
    ):
        yield f"{model}.{part}.embed_positions.weight", (text.max_position_embeddings + POSITION_OFFSET, width)
        yield from _norm(f"{model}.{part}.layernorm_embedding", width)
        for index in range(count):
            layer = f"{model}.{part}.layers.{index}"
            for attention in ("self_attn", "encoder_attn") if part == "decoder" else ("self_attn",):
                for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _linear(f"{layer}.{attention}.{matrix}", width, width)
                yield from _norm(f"{layer}.{attention}_layer_norm", width)
            yield from _linear(f"{layer}.fc1", inner, width)
            yield from _linear(f"{layer}.fc2", width, inner)
            yield from _norm(f"{layer}.final_layer_norm", width)
