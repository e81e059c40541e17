"""Cropping to zones and mapping answers back to the full frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.inference.crop import box_of, crop_to_zone, to_full_frame
from streamer.types import Answer, Box, Frame, Polygon, Quad, Span, Zone

TRIANGLE = Zone("t", ((0.25, 0.5), (0.75, 0.5), (0.5, 1.0)))


def frame(width: int = 40, height: int = 20) -> Frame:
    return Frame("s", 1, 0, 0.0, 0.0, None, np.full((height, width, 3), 200, np.uint8))


def test_crop_is_black_outside_the_polygon() -> None:
    part = crop_to_zone(TRIANGLE, frame()).image
    assert part.shape == (10, 20, 3)
    assert part[0, 10].tolist() == [200] * 3
    assert part[9, 0].tolist() == part[9, 19].tolist() == [0] * 3
    assert not part.flags.writeable
    inside = float((part[..., 0] > 0).mean())
    assert inside == pytest.approx(0.5, abs=0.1)


def test_rectangular_zone_masks_nothing_and_keeps_frame() -> None:
    whole = frame()
    part = crop_to_zone(Zone("r", ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))), whole)
    assert (part.image == 200).all()
    assert part.id == whole.id
    assert (whole.image == 200).all()


@given(
    corners=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=6),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_bounding_box_contains_zone_within_frame(corners: list[tuple[float, float]], size: tuple[int, int]) -> None:
    zone, (width, height) = Zone("z", tuple(corners)), size
    left, top, right, bottom = box_of(zone, width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    for x, y in corners:
        assert left <= x * width <= right or x == 1
        assert top <= y * height <= bottom or y == 1
    image = crop_to_zone(zone, frame(width, height)).image
    assert image.shape == (bottom - top, right - left, 3)


def test_answer_is_mapped_to_full_frame() -> None:
    answer = Answer(
        text="a door",
        score=0.5,
        boxes=(Box(0, 0, 1, 1, "all", 0.9, 7), Box(0.5, 0, 1, 0.5, "part")),
        polygons=(Polygon(((0, 0), (1, 0), (0.5, 1)), "outline"),),
        quads=(Quad(((0, 0), (1, 0), (1, 1), (0, 1)), "EXIT"),),
        spans=(Span(0, 6, (Box(0, 0, 1, 1, "a door", 0.9),), 0.8, True),),
    )
    put = to_full_frame(answer, TRIANGLE, frame())
    assert (put.text, put.score) == ("a door", 0.5)
    assert put.boxes == (Box(0.25, 0.5, 0.75, 1.0, "all", 0.9, 7), Box(0.5, 0.5, 0.75, 0.75, "part"))
    assert put.polygons[0].points == TRIANGLE.points
    assert put.spans == (Span(0, 6, (Box(0.25, 0.5, 0.75, 1.0, "a door", 0.9),), 0.8, True),)
    assert put.quads[0].points == ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0))


def test_pixel_found_in_crop_maps_to_its_place_in_frame() -> None:
    """A dot found in the crop maps back to its own pixel at every frame size."""
    for width, height in ((640, 480), (641, 479), (33, 17)):
        whole = frame(width, height)
        left, top, right, bottom = box_of(TRIANGLE, width, height)
        x, y = (left + right) // 2, (top + bottom) // 2
        image = whole.image.copy()
        image[y, x] = (1, 2, 3)
        part = crop_to_zone(TRIANGLE, Frame("s", 1, 0, 0.0, 0.0, None, image)).image
        (row, column), *more = np.argwhere((part == (1, 2, 3)).all(axis=2))
        assert not more
        high, wide = part.shape[:2]
        answer = Answer(boxes=(Box(column / wide, row / high, (column + 1) / wide, (row + 1) / high, "dot"),))
        box = to_full_frame(answer, TRIANGLE, whole).boxes[0]
        assert [box.x0 * width, box.y0 * height] == pytest.approx([x, y])
        assert [box.x1 * width, box.y1 * height] == pytest.approx([x + 1, y + 1])
