"""From a frame to what the vision tower takes, as the checkpoint's own processor does it but without its libraries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from streamer.errors import ConfigError, PipelineError
from streamer.types import Image

_MODES = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How pictures are prepared; from the checkpoint."""

    height: int
    width: int
    mode: str
    """Of the resize, as torch calls it."""
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tokens: int | None
    """Image tokens per picture, None where the checkpoint does not say."""

    @classmethod
    def read(cls, name: str, raw: Mapping[str, Any]) -> ImageSettings:
        """From a preprocessor_config.json. Raises ConfigError for a way of preparing that is not supported."""
        size = raw.get("size")
        if not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
            raise ConfigError(f"checkpoint {name}: its processor must resize to a height and width, not to {size}")
        if raw.get("do_center_crop"):
            raise ConfigError(f"checkpoint {name}: its processor crops pictures, which Florence-2 does not")
        resample = raw.get("resample", 3)
        if resample not in _MODES:
            raise ConfigError(f"checkpoint {name}: its processor resizes with the unknown filter {resample}")
        return cls(
            height=int(size["height"]),
            width=int(size["width"]),
            mode=_MODES[resample],
            scale=float(raw.get("rescale_factor") or 1 / 255),
            mean=tuple(raw.get("image_mean") or (0.485, 0.456, 0.406)),
            std=tuple(raw.get("image_std") or (0.229, 0.224, 0.225)),
            tokens=raw.get("image_seq_length"),
        )


def resize(image: Image, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """uint8 (3, height, width), RGB, of a BGR picture; `size` is (height, width).

    Antialiased, first across and then down, and within one level of PIL's (two in a few values of an enlarged
    picture). Raises PipelineError when `image` is no picture.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PipelineError(f"the frame is not a BGR picture: {image.dtype} of shape {image.shape}")
    with warnings.catch_warnings():
        # Frames are read-only and torch has no such tensors; it is only read here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        bgr = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return functional.interpolate(bgr, size=size, mode=mode, antialias=True)[0].flip(0)


class Preprocessor:
    """Makes the pixel tensors one checkpoint takes."""

    def __init__(self, settings: ImageSettings) -> None:
        self._size, self._mode = (settings.height, settings.width), settings.mode
        # (level * scale - mean) / std, as one multiplication and one addition.
        mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
        self._gain = (settings.scale / std).view(3, 1, 1)
        self._offset = (-mean / std).view(3, 1, 1)

    def __call__(self, image: Image) -> torch.Tensor:
        """float32 (3, height, width), RGB, normalised. Raises PipelineError when `image` is no picture."""
        return resize(image, self._size, self._mode).float() * self._gain + self._offset
