"""Sizes and pixels of the picture files of a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as Files
from PIL import ImageOps

from streamer.core.errors import ConfigError
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Image

FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
"""Pillow's decoders that may read a picture, whatever its name."""
_ORIENTATION = 0x0112
"""EXIF tag; pictures with the values 5 to 8 lie on their side."""


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a picture as it is seen, without decoding it. Raises ConfigError."""
    with _opened(path) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def read_picture(path: Path) -> Image:
    """Return the pixels of a picture as it is seen: uint8 BGR, read-only. Raises ConfigError."""
    with _opened(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        image = np.ascontiguousarray(np.asarray(upright)[:, :, ::-1])
    image.setflags(write=False)
    return image


@contextmanager
def _opened(path: Path) -> Iterator[Files.Image]:
    """Open a picture. Raises ConfigError, also for errors of Pillow in the block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Files.DecompressionBombWarning)  # MAX_PIXELS is checked below
            with Files.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ConfigError(f"{path}: more than {MAX_PIXELS} pixels")
                yield picture
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such picture") from None
    except (OSError, SyntaxError, ValueError, Files.DecompressionBombError):
        raise ConfigError(f"{path}: cannot be read as a picture ({', '.join(FORMATS)})") from None
