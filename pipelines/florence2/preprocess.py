"""From a frame to what the vision tower takes, as the checkpoint's own processor does it but without its libraries."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch.nn import functional

from pipelines.florence2.image_settings import ImageSettings
from streamer.core.errors import PipelineError
from streamer.types import Image


def resize(image: Image, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """uint8 (3, height, width), RGB, of a BGR picture; `size` is (height, width).

    Antialiased, and within one level of PIL's (two in a few values of one not much larger). Raises PipelineError when
    `image` is no picture.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PipelineError(f"the frame is not a BGR picture: {image.dtype} of shape {image.shape}")
    with warnings.catch_warnings():
        # Frames are read-only and torch has no such tensors; it is only read here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        bgr = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if _is_down_first(image, size):
        size = size[1], size[0]
        return functional.interpolate(bgr.mT, size=size, mode=mode, antialias=True).mT[0].flip(0)
    return functional.interpolate(bgr, size=size, mode=mode, antialias=True)[0].flip(0)


def _is_down_first(image: Image, size: tuple[int, int]) -> bool:
    """Whether PIL (since Pillow 13) resizes it down before across, which rounds otherwise; torch does the contrary."""
    (height, width, _), (rows, columns) = image.shape, size
    return bool(height > rows and height - rows > 2 * (width - columns))


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
