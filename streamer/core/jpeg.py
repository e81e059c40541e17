"""Encodes images as JPEG."""

from __future__ import annotations

from typing import NamedTuple

import cv2

from streamer.core.picture_limits import MAX_SIDE
from streamer.types import Image


class Jpeg(NamedTuple):
    content: bytes
    width: int
    height: int


def encode_jpeg(image: Image, quality: int, width: int | None = None) -> Jpeg | None:
    """Encode an image, scaled down to `width` if it is wider. Return None if it is too large for a JPEG."""
    if width is not None and width < image.shape[1]:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if max(image.shape) > MAX_SIDE:
        return None
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return Jpeg(data.tobytes(), image.shape[1], image.shape[0]) if encoded else None
