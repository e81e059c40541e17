"""Cropping to zones and mapping answers back to the full frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.config.model import find_pipeline
from streamer.core.places import to_whole
from streamer.inference.crop import (
    MARGIN,
    MAX_SHARE,
    View,
    box_of,
    crop,
    crop_to_zone,
    uncrop,
    view_of,
    zone_view,
)
from streamer.types import (
    Answer,
    Box,
    Confirmation,
    DueTask,
    Frame,
    Job,
    Polygon,
    Quad,
    Refused,
    Region,
    Result,
    Span,
    Task,
    Zone,
)
from tests.support.tasks import PARAMS

TRIANGLE = Zone("t", ((0.25, 0.5), (0.75, 0.5), (0.5, 1.0)))


def frame(width: int = 40, height: int = 20) -> Frame:
    return Frame("s", 1, 0, 0.0, 0.0, None, np.full((height, width, 3), 200, np.uint8))


def view_in(zone: Zone, whole: Frame | None = None) -> View:
    view = zone_view(zone, whole or frame())
    assert view is not None
    return view


def about(region: Region, whole: Frame, zone: Zone | None = None) -> Job:
    """Return a job of a task with a region that sees a native crop."""
    params = find_pipeline().tasks()["region_to_ocr"].parameters(region=region)
    return Job(DueTask("s", Task("plate", "region_to_ocr", params, zone=zone, crop="native"), 0.0), whole)


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
        confirmation=Confirmation(4, (Refused(Box(0, 0, 1, 0.5, "top"), "words", "a lamp", 0.1),)),
    )
    put = to_whole(answer, view_in(TRIANGLE).pixels, 40, 20)
    assert (put.text, put.score) == ("a door", 0.5)
    assert put.boxes == (Box(0.25, 0.5, 0.75, 1.0, "all", 0.9, 7), Box(0.5, 0.5, 0.75, 0.75, "part"))
    assert put.confirmation == Confirmation(4, (Refused(Box(0.25, 0.5, 0.75, 0.75, "top"), "words", "a lamp", 0.1),))
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
        box = to_whole(answer, view_in(TRIANGLE, whole).pixels, width, height).boxes[0]
        assert [box.x0 * width, box.y0 * height] == pytest.approx([x, y])
        assert [box.x1 * width, box.y1 * height] == pytest.approx([x + 1, y + 1])


def test_native_crop_is_region_with_margin() -> None:
    """The margin is that of the shorter side on all four sides."""
    whole, margin = frame(1024, 1024), 32 * MARGIN
    job = crop(about(Region(0.5, 0.5, 0.625, 0.53125), whole), {})
    assert job.frame.image.shape[:2] == (32 + 2 * margin, 128 + 2 * margin)
    region = job.due.task.params.prompt_region
    assert [region.x0, region.x1] == pytest.approx([margin / (128 + 2 * margin), (128 + margin) / (128 + 2 * margin)])
    assert [region.y0, region.y1] == pytest.approx([margin / (32 + 2 * margin), (32 + margin) / (32 + 2 * margin)])


def test_crop_at_an_edge_is_moved_inwards() -> None:
    whole, margin = frame(1024, 1024), round(32 * MARGIN)
    view = view_of(about(Region(0.0, 0.96875, 0.125, 1.0), whole).due.task, whole)
    assert view is not None
    assert view.pixels == (0, 1024 - 32 - 2 * margin, 128 + 2 * margin, 1024)


sides = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: abs(pair[0] - pair[1]) > 1e-3).map(sorted)


@given(xs=sides, ys=sides, size=st.tuples(st.integers(8, 300), st.integers(8, 300)), in_zone=st.booleans())
def test_native_crop_contains_its_region(
    xs: list[float], ys: list[float], size: tuple[int, int], in_zone: bool
) -> None:
    (width, height), zone = size, Zone("z", ((0.0, 0.0), (0.9, 0.0), (0.9, 1.0), (0.0, 1.0))) if in_zone else None
    whole = frame(width, height)
    region = Region(xs[0] * 0.9, ys[0], xs[1] * 0.9, ys[1])
    job = about(region, whole, zone)
    base, view = zone_view(zone, whole), view_of(job.due.task, whole)
    if view == base:
        return
    assert view is not None
    left, top, right, bottom = view.pixels
    outer = base.pixels if base else (0, 0, width, height)
    assert outer[0] <= left < right <= outer[2]
    assert outer[1] <= top < bottom <= outer[3]
    assert left <= region.x0 * width
    assert region.x1 * width <= right
    assert top <= region.y0 * height
    assert region.y1 * height <= bottom
    assert (right - left) * (bottom - top) <= MAX_SHARE * (outer[2] - outer[0]) * (outer[3] - outer[1])
    assert crop(job, {}).frame.image.shape == (bottom - top, right - left, 3)


@pytest.mark.parametrize("zone", [None, TRIANGLE])
@pytest.mark.parametrize("size", [(640, 480), (641, 479), (333, 217)])
def test_dot_in_native_crop_maps_to_its_own_pixel(zone: Zone | None, size: tuple[int, int]) -> None:
    (width, height), image = size, frame(*size).image.copy()
    x, y = round(0.5 * width), round(0.7 * height)
    image[y, x] = (1, 2, 3)
    whole = Frame("s", 1, 0, 0.0, 0.0, None, image)
    job = about(Region(0.45, 0.69, 0.55, 0.71), whole, zone)
    seen = crop(job, {})
    (row, column), *more = np.argwhere((seen.frame.image == (1, 2, 3)).all(axis=2))
    assert not more
    high, wide = seen.frame.image.shape[:2]
    assert high < height / 2
    answer = Answer(boxes=(Box(column / wide, row / high, (column + 1) / wide, (row + 1) / high, "dot"),))
    result = uncrop(Result(seen, "ok", answer), job)
    (box,) = result.answer.boxes
    assert [box.x0 * width, box.y0 * height] == pytest.approx([x, y])
    assert [box.x1 * width, box.y1 * height] == pytest.approx([x + 1, y + 1])
    assert result.job is job
    assert result.crop is not None
    assert (result.crop[2] - result.crop[0], result.crop[3] - result.crop[1]) == (wide, high)


def test_native_crop_in_zone_shows_nothing_outside_polygon() -> None:
    whole = frame(400, 400)
    seen = crop(about(Region(0.25, 0.9, 0.35, 0.95), whole, TRIANGLE), {}).frame.image
    assert seen.shape[1] < 200
    assert (seen[-1, 0] == 0).all()


def test_equal_crops_share_a_picture_without_a_copy() -> None:
    whole, pictures = frame(400, 400), dict[View, Frame]()
    first, second = (crop(about(Region(0.4, 0.4, 0.5, 0.42), whole), pictures) for _ in range(2))
    assert first.frame is second.frame
    assert np.shares_memory(first.frame.image, whole.image)
    inside = [crop(about(Region(x, 0.7, x + 0.04, 0.72), whole, TRIANGLE), pictures).frame.image for x in (0.45, 0.5)]
    zone = pictures[view_in(TRIANGLE, whole)].image
    assert all(np.shares_memory(part, zone) for part in inside)


def test_crop_of_most_of_the_picture_is_the_whole_picture() -> None:
    whole = frame(400, 400)
    job = about(Region(0.3, 0.3, 0.6, 0.6), whole)
    assert crop(job, {}) is job
    result = Result(job, "ok", Answer(text="A1"))
    assert uncrop(result, job) is result
    zoned = about(Region(0.3, 0.6, 0.7, 0.9), whole, TRIANGLE)
    seen = crop(zoned, {})
    assert seen.frame.image.shape[:2] == (200, 200)
    assert uncrop(Result(seen, "ok", Answer(text="A1")), zoned).crop is None


def test_task_without_zone_or_crop_sees_the_frame() -> None:
    job = Job(DueTask("s", Task("caption", "caption", PARAMS), 0.0), frame())
    assert crop(job, {}) is job
