"""Images as JPEG."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.core.jpeg import encode_jpeg


@pytest.mark.parametrize("shape", [(1, 70_000, 3), (70_000, 1, 3)])
def test_frame_too_large_for_a_jpeg_gives_no_snapshot(shape: tuple[int, int, int]) -> None:
    assert encode_jpeg(np.zeros(shape, np.uint8), 80) is None
    scaled = encode_jpeg(np.zeros(shape, np.uint8), 80, 64)
    assert (scaled is None) == (shape[0] > shape[1])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (60_000, 100, 3)])
def test_frame_of_any_other_size_gives_a_snapshot(shape: tuple[int, int, int]) -> None:
    for width in (None, 16):
        jpeg = encode_jpeg(np.zeros(shape, np.uint8), 80, width)
        assert jpeg is not None
        assert jpeg.content.startswith(b"\xff\xd8")
