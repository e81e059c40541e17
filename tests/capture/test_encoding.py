"""Pictures for other hosts: the camera's own JPEG where it is good enough and no better, else another one."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.capture.encoding import encode_image, own_encoding
from streamer.capture.jpeg_header import coarseness, jpeg_size
from streamer.capture.sources._encoded_picture import EncodedPicture
from streamer.toyworld.world import World
from tests.support.clips import bgr

IMAGE = World(1).scene(1.0).paint(320, 240)
JPEG = encode_image(IMAGE, 80)


def kept(data: bytes) -> EncodedPicture:
    return EncodedPicture(data, (320, 240), None, 0.0)


@pytest.mark.parametrize("quality", [80, 90, 100, None])
def test_jpeg_of_the_camera_is_passed_on(quality: int | None) -> None:
    assert own_encoding(kept(JPEG), quality) == JPEG


@pytest.mark.parametrize("quality", [1, 50, 79])
def test_jpeg_that_is_better_than_asked_for_is_not_passed_on(quality: int) -> None:
    assert own_encoding(kept(JPEG), quality) is None


def test_picture_with_much_other_data_is_not_passed_on() -> None:
    comment = b"\xff\xfe\xea\x60" + bytes(59_998)
    padded = JPEG[:2] + comment + JPEG[2:]
    assert np.array_equal(bgr(kept(padded)), bgr(kept(JPEG)))
    assert own_encoding(kept(padded), 90) is None
    assert own_encoding(kept(padded), None) is None


def test_lossless_picture_is_not_passed_on_as_a_jpeg() -> None:
    """It has come from another host, and is asked for by a third one."""
    assert own_encoding(kept(encode_image(IMAGE, None)), 100) is None


def test_header_of_anything_else_is_unknown() -> None:
    thumbnail = b"\xff\xe1" + (2 + len(JPEG)).to_bytes(2) + encode_image(IMAGE, 5)[: len(JPEG)].ljust(len(JPEG), b"\0")
    assert (jpeg_size(JPEG), coarseness(JPEG)) == ((320, 240), coarseness(JPEG[:2] + thumbnail + JPEG[2:]))
    for data in (b"", b"\xff\xd8", JPEG[:30], JPEG[2:], b"\xff\xd8\xff\xdb\0\2", encode_image(IMAGE, None)):
        assert (jpeg_size(data), coarseness(data)) == (None, 0)
