"""A checkpoint's image preprocessing settings. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamer.core.errors import ConfigError

_MODES = {2: "bilinear", 3: "bicubic"}
_STRIDES = (4, 2, 2, 2)
"""Patch strides of the published checkpoints, for a config that has none."""


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


def _tokens(rows: int, columns: int, strides: Sequence[int]) -> int:
    """Return the number of image tokens: one per cell of the last feature map, and their mean."""
    for stride in strides:
        rows, columns = math.ceil(rows / stride), math.ceil(columns / stride)
    return rows * columns + 1
