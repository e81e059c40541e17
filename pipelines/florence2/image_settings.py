"""A checkpoint's image preprocessing settings. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from streamer.core.errors import ConfigError

_MODES = {2: "bilinear", 3: "bicubic"}
_STRIDES = (4, 2, 2, 2)
"""Patch strides of the published checkpoints, for a config that has none."""
_MAP_SIDE = 50
"""Rows and columns of the position table, for a config that does not say."""
SIZES = (384, 512, 640, 768)
"""Sides in pixels that a config can choose beside the checkpoint's own."""
PROMPT_ROOM = 102
"""Positions that an image size must leave for the prompt: 100 characters, `<s>` and `</s>`."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Image size, resize filter and normalisation of a checkpoint."""

    height: int
    width: int
    mode: str
    """Interpolation mode of the resize, as named by torch."""
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tokens: int
    """Image tokens per frame."""

    @classmethod
    def read(cls, name: str, raw: Mapping[str, Any], vision: Mapping[str, Any] = MappingProxyType({})) -> ImageSettings:
        """Read the settings from a preprocessor_config.json and the vision tower's config.

        Raises ConfigError when the checkpoint needs preprocessing that is not supported.
        """
        size = raw.get("size")
        if not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
            raise ConfigError(f"checkpoint {name}: its processor must resize to a height and width, not to {size}")
        if raw.get("do_center_crop"):
            raise ConfigError(f"checkpoint {name}: its processor crops pictures, which Florence-2 does not")
        resample = raw.get("resample", 3)
        if resample not in _MODES:
            raise ConfigError(f"checkpoint {name}: its processor resizes with the unknown filter {resample}")
        height, width = int(size["height"]), int(size["width"])
        return cls(
            height=height,
            width=width,
            mode=_MODES[resample],
            scale=float(raw.get("rescale_factor") or 1 / 255),
            mean=tuple(raw.get("image_mean") or (0.485, 0.456, 0.406)),
            std=tuple(raw.get("image_std") or (0.229, 0.224, 0.225)),
            tokens=raw.get("image_seq_length") or _tokens(height, width, vision.get("patch_stride") or _STRIDES),
        )

    def resized(self, name: str, side: int, vision: Mapping[str, Any], max_positions: int) -> ImageSettings:
        """Return the settings for square pictures of `side` pixels.

        `max_positions`: length of a prompt in tokens, the image's included. Raises ConfigError when the checkpoint
        cannot take this size.
        """
        if (side, side) == (self.height, self.width):
            return self
        own = f"leave it out for the size of checkpoint {name}, {self.width}x{self.height}"
        if side not in SIZES:
            raise ConfigError(f"model.image_size: {side} is none of {', '.join(map(str, SIZES))}; choose one, or {own}")
        strides = vision.get("patch_stride") or _STRIDES
        if side % (total := math.prod(strides)):
            raise ConfigError(f"model.image_size: {side} is not a multiple of {total}, the stride of its model; {own}")
        table = vision.get("max_position_embeddings") or _MAP_SIDE
        if side // total > table:
            raise ConfigError(
                f"model.image_size: {side} gives {side // total} rows of image tokens, and the model has positions for "
                f"{table}; {own}"
            )
        tokens = _tokens(side, side, strides)
        if max_positions - tokens < PROMPT_ROOM:
            raise ConfigError(
                f"model.image_size: {side} gives {tokens} image tokens, and the model takes {max_positions} tokens, "
                f"of which the prompt needs {PROMPT_ROOM}; {own}"
            )
        return replace(self, height=side, width=side, tokens=tokens)


def _tokens(rows: int, columns: int, strides: Sequence[int]) -> int:
    """Return the number of image tokens: one per cell of the last feature map, and their mean."""
    for stride in strides:
        rows, columns = math.ceil(rows / stride), math.ceil(columns / stride)
    return rows * columns + 1
