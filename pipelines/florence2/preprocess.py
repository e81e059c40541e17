"""Converts frames to the vision tower's input, equal to the checkpoint's own processor but without its libraries."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch.nn import functional

from pipelines.florence2.image_settings import ImageSettings
from streamer.types import Image


def resize(image: Image, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """Resize a BGR image, uint8 (height, width, 3), to `size` (height, width); return RGB, uint8 (3, height, width).

    Antialiased. Values are within one level of PIL's, a few of them within two when the image is enlarged.
    """
    with warnings.catch_warnings():
        # Frames are read-only and torch has no read-only tensors; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        bgr = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if _is_vertical_first(image, size):
        size = size[1], size[0]
        return functional.interpolate(bgr.mT, size=size, mode=mode, antialias=True).mT[0].flip(0)
    return functional.interpolate(bgr, size=size, mode=mode, antialias=True)[0].flip(0)


def _is_vertical_first(image: Image, size: tuple[int, int]) -> bool:
    """Return whether PIL (since Pillow 13) resizes rows before columns, which rounds differently from torch's order."""
    (height, width, _), (rows, columns) = image.shape, size
    return bool(height > rows and height - rows > 2 * (width - columns))


class Preprocessor:
    """Makes the pixel tensors of one checkpoint."""

    def __init__(self, settings: ImageSettings) -> None:
        self._size, self._mode = (settings.height, settings.width), settings.mode
        # (level * scale - mean) / std, as one multiplication and one addition.
        mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
        self._gain = (settings.scale / std).view(3, 1, 1)
        self._offset = (-mean / std).view(3, 1, 1)

    def __call__(self, image: Image) -> torch.Tensor:
        """Return normalised RGB, float32 (3, height, width)."""
        return resize(image, self._size, self._mode).float() * self._gain + self._offset
