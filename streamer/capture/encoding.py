"""Encodes pictures for other hosts, unless the camera's own encoding can be passed on."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from streamer.capture.interfaces import Encoded, Picture
from streamer.capture.jpeg_header import coarseness
from streamer.types import Image

_PNG_LEVEL = 1
"""Compression of lossless pictures: higher levels take several times as long."""
_MAX_BYTES_PER_PIXEL = 0.5
"""Largest size of a camera's picture that is passed on. It may hold other data, such as a second picture."""


def own_encoding(picture: Picture, quality: int | None) -> bytes | None:
    """Return the picture as its camera encoded it, None if it is not encoded or better than asked for.

    `quality`: highest of a JPEG; None: any.
    """
    if not isinstance(picture, Encoded):
        return None
    data = picture.encoded
    if len(data) > _MAX_BYTES_PER_PIXEL * picture.width * picture.height:
        return None
    return data if quality is None or coarseness(data) >= _coarseness_of(quality) else None


def encode_image(image: Image, quality: int | None) -> bytes:
    """Return a JPEG of this quality, or without one a PNG, which is lossless."""
    if quality is None:
        _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
    else:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


@cache
def _coarseness_of(quality: int) -> int:
    return coarseness(encode_image(np.zeros((8, 8, 3), np.uint8), quality))
