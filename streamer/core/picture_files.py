"""Picture files in folders: their names, sizes and pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as Files
from PIL import ImageOps

from streamer.core.errors import ConfigError
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Last parts of the names of pictures, in lower case."""
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
"""Pillow's decoders that may read a picture, whatever its name."""
_ORIENTATION = 0x0112
"""EXIF tag; pictures with the values 5 to 8 lie on their side."""


def find_pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder in the order of their names, no links. Raises ConfigError without a folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
            yield path


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a picture as it is seen, without decoding it. Raises ConfigError."""
    with _opened(path) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)


def read_picture(path: Path, content: bytes | None = None) -> Image:
    """Return the pixels of a picture as it is seen: uint8 BGR, read-only. Raises ConfigError.

    `content`: that of the file, if it has been read already.
    """
    with _opened(path, content) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        image = np.ascontiguousarray(np.asarray(upright)[:, :, ::-1])
    image.setflags(write=False)
    return image


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Files.Image]:
    """Open a picture. Raises ConfigError, also for errors of Pillow in the block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: damaged EXIF data, and sizes, which are checked below
            with Files.open(path if content is None else BytesIO(content), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise Files.DecompressionBombError
                yield picture
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such picture") from None
    except Files.DecompressionBombError:  # Pillow itself raises it above a limit of its own
        raise ConfigError(f"{path}: more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError):
        raise ConfigError(f"{path}: cannot be read as a picture ({', '.join(FORMATS)})") from None
