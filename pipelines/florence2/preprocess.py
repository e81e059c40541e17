"""Converts frames to the vision tower's input, equal to the checkpoint's own processor but without its libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from pipelines.florence2.fast.graphs import device_tensor
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.resample import Resampler
from streamer.types import Image

_CPU = torch.device("cpu")


def resize(image: Image, size: tuple[int, int], mode: str = "bicubic") -> torch.Tensor:
    """Resize a BGR image, uint8 (height, width, 3), to `size` (height, width); return RGB, uint8 (3, height, width).

    Antialiased. Values are within one level of PIL's, a few of them within two when the image is enlarged.
    """
    bgr = _tensor(image).permute(2, 0, 1)[None]
    if _is_vertical_first(image, size):
        size = size[1], size[0]
        return functional.interpolate(bgr.mT, size=size, mode=mode, antialias=True).mT[0].flip(0)
    return functional.interpolate(bgr, size=size, mode=mode, antialias=True)[0].flip(0)


def _tensor(image: Image) -> torch.Tensor:
    """Return a tensor that shares the memory of an image, if the image is contiguous."""
    with warnings.catch_warnings():
        # Frames are read-only and torch has no read-only tensors; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(image))


def _is_vertical_first(image: Image, size: tuple[int, int]) -> bool:
    """Return whether PIL (since Pillow 13) resizes rows before columns, which rounds differently from torch's order."""
    (height, width, _), (rows, columns) = image.shape, size
    return bool(height > rows and height - rows > 2 * (width - columns))


class DeviceResize:
    """Copies an image to a device and resizes it there, to the levels of `resize`: at most one level apart."""

    def __init__(self, size: tuple[int, int], mode: str, device: torch.device) -> None:
        self._size, self._device = size, device
        self._resample = Resampler(size, mode, device)

    def __call__(self, image: Image) -> torch.Tensor:
        """Return RGB, uint8 (3, height, width), of a BGR image, uint8 (height, width, 3)."""
        return self._resample(self._upload(image).permute(2, 0, 1), _is_vertical_first(image, self._size)).flip(0)

    def _upload(self, image: Image) -> torch.Tensor:
        if self._device.type != "cuda":
            return _tensor(image).to(self._device)
        # torch keeps page-locked blocks, and uses one again only after the copy out of it has ended.
        staged = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
        return staged.copy_(_tensor(image)).to(self._device, non_blocking=True)


class Preprocessor:
    """Makes the pixel tensors of one checkpoint, on a device."""

    def __init__(self, settings: ImageSettings, device: torch.device = _CPU) -> None:
        size, mode = (settings.height, settings.width), settings.mode
        self._resize: Callable[[Image], torch.Tensor] = partial(resize, size=size, mode=mode)
        if device.type != "cpu":
            self._resize = DeviceResize(size, mode, device)
        # (level * scale - mean) / std, as one multiplication and one addition.
        mean, std = (
            device_tensor(values, torch.float32, device).view(3, 1, 1) for values in (settings.mean, settings.std)
        )
        self._gain, self._offset = settings.scale / std, -mean / std

    def __call__(self, image: Image) -> torch.Tensor:
        """Return normalised RGB, float32 (3, height, width)."""
        return self._resize(image).float() * self._gain + self._offset
