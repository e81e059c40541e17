"""Drawn pixels, and which answers are drawn on which frame."""

from __future__ import annotations

from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from streamer.events.build import result_event
from streamer.events.result_data import EventPoints
from streamer.events.schema import ResultEvent
from streamer.types import (
    Answer,
    Box,
    DueTask,
    Frame,
    FrameId,
    Image,
    Job,
    Outcome,
    Polygon,
    Quad,
    Result,
    Span,
    Task,
    Zone,
)
from streamer.video.draw import Painter, wrap
from streamer.video.overlay import OLD_S, Layer, Overlay, Overlays
from tests.support.tasks import PARAMS

EPOCH = 1_764_000_000_000
SIZE = 640, 480
AT = 1_764_000_012.0


def grey() -> Image:
    return np.full((480, 640, 3), 90, np.uint8)


def changed(before: Image, after: Image) -> tuple[int, int, int, int]:
    """Return the rectangle in which two images differ, below the header."""
    rows, columns = np.nonzero((before != after).any(axis=2)[40:])
    return int(columns.min()), int(rows.min()) + 40, int(columns.max()), int(rows.max()) + 40


def drawn(overlay: Overlay) -> Image:
    image = grey()
    Painter(*SIZE).draw(image, overlay, AT)
    return image


def layer(*boxes: Box, outlines: tuple[EventPoints, ...] = (), strength: float = 1.0) -> Overlay:
    return Overlay((Layer(boxes, outlines, strength),))


def test_box_is_drawn_at_its_place_below_its_label() -> None:
    left, top, right, bottom = changed(drawn(Overlay()), drawn(layer(Box(0.25, 0.5, 0.5, 0.75, "car", 0.93))))
    assert [left, right, bottom] == pytest.approx([160, 320, 360], abs=3)
    assert 200 < top < 240


def test_score_is_drawn() -> None:
    with_score = drawn(layer(Box(0.25, 0.5, 0.5, 0.75, "car", 0.93)))
    assert (with_score != drawn(layer(Box(0.25, 0.5, 0.5, 0.75, "car")))).any()


def test_label_keeps_its_colour() -> None:
    one = drawn(layer(Box(0.25, 0.5, 0.5, 0.75, "car")))
    two = drawn(layer(Box(0.25, 0.5, 0.5, 0.75, "cat"), Box(0.6, 0.5, 0.8, 0.75, "car")))
    assert one[300, 160].tolist() == two[300, 384].tolist() != two[300, 160].tolist()


def test_outlines_are_drawn_along_their_corners() -> None:
    corners = (0.2, 0.5), (0.4, 0.6), (0.4, 0.8), (0.2, 0.7)
    outline = EventPoints(label="plate", score=None, points=corners, pixels=())
    before, after = drawn(Overlay()), drawn(layer(outlines=(outline,)))
    left, _, right, bottom = changed(before, after)
    assert [left, right, bottom] == pytest.approx([128, 256, 384], abs=3)
    assert (before[264, 192] != after[264, 192]).any()  # half way along the upper edge


def test_faded_box_is_weaker() -> None:
    box = Box(0.25, 0.5, 0.5, 0.75, "car")
    plain = drawn(Overlay()).astype(int)
    strong = np.abs(drawn(layer(box)).astype(int) - plain)[300, 160].sum()
    weak = np.abs(drawn(layer(box, strength=0.4)).astype(int) - plain)[300, 160].sum()
    assert weak == pytest.approx(0.4 * strong, rel=0.1)


def test_boxes_outside_the_image_are_accepted() -> None:
    drawn(layer(Box(-3.0, -2.0, -1.0, -1.5, "gone"), Box(0.9, 0.9, 5.0, 7.0, ""), Box(0.5, 0.5, 0.5, 0.5, "x")))


def test_long_caption_is_wrapped_at_the_bottom() -> None:
    short, long = (Overlay(captions=("a word " * times,)) for times in (1, 200))
    heights = [480 - changed(drawn(Overlay()), drawn(overlay))[1] for overlay in (short, long)]
    assert 15 < heights[0] < 45
    assert 2.5 * heights[0] < heights[1] < 160


def test_wrap_keeps_every_word_within_the_width() -> None:
    text = "the quick brown fox jumps over a dog " + "x" * 200
    lines = wrap(text, 200, 0.5)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] <= 200 for line in lines)
    assert lines[0].endswith(("quick", "brown", "fox", "jumps"))
    assert wrap(" \n ", 200, 0.5) == []


def test_zone_is_drawn_thin_with_name_below_boxes() -> None:
    plain, zoned = drawn(Overlay()), grey()
    zone = Zone("plate", ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))
    Painter(*SIZE, [zone]).draw(zoned, Overlay(), AT)
    left, top, right, bottom = changed(plain, zoned)
    assert [left, top, right, bottom] == pytest.approx([160, 120, 480, 360], abs=2)
    assert (zoned[240, 156:164] != 90).any(axis=1).sum() <= 3
    assert (zoned[124:140, 162:220] != 90).any()  # the name
    assert (zoned[200:300, 200:400] == 90).all()
    box = Box(0.25, 0.25, 0.75, 0.75, "car")
    Painter(*SIZE, [zone]).draw(zoned, layer(box), AT)
    assert zoned[300, 160].tolist() == drawn(layer(box))[300, 160].tolist()


def test_line_is_drawn_with_its_name() -> None:
    plain, lined = drawn(Overlay()), grey()
    Painter(*SIZE, lines={"kerb": ((0.25, 0.5), (0.75, 0.5))}).draw(lined, Overlay(), AT)
    left, top, right, _ = changed(plain, lined)
    assert [left, top, right] == pytest.approx([160, 240, 480], abs=2)
    assert (lined[246:260, 162:210] != 90).any()  # the name
    assert (lined[300:] == plain[300:]).all()


@pytest.mark.parametrize("size", [(640, 480), (32, 16), (2, 2)])
def test_zone_at_the_edge_is_accepted(size: tuple[int, int]) -> None:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    Painter(*size, [Zone("a-long-name", ((0.9, 0.9), (1.0, 0.9), (1.0, 1.0)))]).draw(image, Overlay(), AT)


def test_time_and_answer_age_are_drawn() -> None:
    image, old = drawn(Overlay()), drawn(Overlay(note="last answer 40 s ago"))
    assert (image[:20, :100] != 90).any()
    assert (image[:20] != old[:20]).any()


def test_lost_camera_image_is_grey() -> None:
    image = grey()
    image[100:200, 100:200] = 0, 0, 250
    Painter(*SIZE).draw_lost(image, "camera lost 12 s", AT)
    assert (image[150, 150] == image[150, 150, 0]).all()
    assert image[230:250].max() > 200  # the message


# Overlays: which answers are drawn on which frame


def event(at: float, answer: Answer, name: str = "objects", outcome: Outcome = "ok", epoch: int = EPOCH) -> ResultEvent:
    frame = Frame("gate", epoch, round(25 * at), EPOCH / 1000 + at, at, at, grey())
    result = Result(Job(DueTask("gate", Task(name, "object_detection", PARAMS), 0.0), frame), outcome, answer)
    return result_event("home", result, "tiny")


def overlays(*events: ResultEvent, shortest: float | None = 1.0) -> Overlays:
    made = Overlays({"objects": 1.0, "words": 1.0}, shortest, 0.0)
    for one in events:
        made.add(one, one.data.frame.pts or 0.0)
    return made


CAR = Answer(boxes=(Box(0.1, 0.2, 0.3, 0.4, "car"),))


def test_boxes_are_shown_from_their_frame_on() -> None:
    made = overlays(event(5.0, CAR))
    assert made.at(FrameId(EPOCH, 124), 4.96, 5.0).layers == ()
    assert [box.label for one in made.at(FrameId(EPOCH, 125), 5.0, 5.0).layers for box in one.boxes] == ["car"]


def test_answers_of_an_old_connection_are_not_shown() -> None:
    made = overlays(event(5.0, CAR))
    assert made.at(FrameId(EPOCH + 1, 125), 5.0, 5.0).layers == ()
    made.add(event(5.0, CAR), 6.0)  # a late answer about the old connection
    assert made.at(FrameId(EPOCH + 1, 125), 5.0, 6.0).layers == ()


def test_removed_task_is_neither_shown_nor_awaited() -> None:
    made = overlays(event(5.0, CAR), event(5.0, CAR, "words"))
    assert made.note(25.0) == "last answer 20 s ago"
    made.set_tasks({"words": 60.0}, 60.0, 25.0)
    assert len(made.at(FrameId(EPOCH, 125), 5.0, 25.0).layers) == 1
    assert made.note(40.0) is None
    made.set_tasks({}, None, 40.0)
    assert made.at(FrameId(EPOCH, 125), 5.0, 40.0) == Overlay()


def test_caption_marks_unsupported_words() -> None:
    spans = (Span(0, 10, CAR.boxes, 0.9, True), Span(15, 23, (), 0.1, False))
    made = overlays(event(5.0, Answer(text="a red ring and two cars on a road", spans=spans), "words"))
    overlay = made.at(FrameId(EPOCH, 125), 5.0, 5.0)
    assert (overlay.captions, overlay.layers) == (("words: a red ring and two cars (?) on a road",), ())


def test_polygons_and_quads_become_outlines() -> None:
    corners = ((0.1, 0.1), (0.2, 0.1), (0.2, 0.2), (0.1, 0.2))
    made = overlays(event(5.0, Answer(polygons=(Polygon(corners, "a"),), quads=(Quad(corners, "b"),))))
    (one,) = made.at(FrameId(EPOCH, 130), 5.2, 5.2).layers
    assert [outline.label for outline in one.outlines] == ["a", "b"]


def test_captions_stay_long_enough_to_be_read() -> None:
    made = overlays(event(5.0, Answer(text="two cars"), "words"))
    assert made.at(FrameId(EPOCH, 140), 5.6, 5.6).captions == ("words: two cars",)
    assert made.at(FrameId(EPOCH, 240), 9.9, 5.6).captions == ("words: two cars",)
    assert made.at(FrameId(EPOCH, 900), 36.0, 5.6).captions == ()


def test_age_of_old_answers_is_noted() -> None:
    made = overlays()
    assert made.note(OLD_S) is None
    assert made.note(20.0) == "no answer for 20 s"
    made.add(event(20.0, Answer(), outcome="empty"), 20.0)
    assert made.note(22.0) is None
    assert made.note(60.2) == "last answer 40 s ago"
    made.add(event(60.0, Answer(), outcome="error"), 60.5)
    assert made.note(60.5) == "last answer 40 s ago"


def test_tasks_with_time_windows_are_never_overdue() -> None:
    assert overlays(shortest=None).note(9999.0) is None


def test_answer_without_pts_uses_capture_time() -> None:
    without = event(5.0, CAR)
    data = without.data.model_copy(update={"frame": without.data.frame.model_copy(update={"pts": None})})
    made = overlays(without.model_copy(update={"data": data}))
    assert datetime.fromisoformat(without.time) == datetime.fromtimestamp(EPOCH / 1000 + 5, UTC)
    assert made.at(FrameId(EPOCH, 126), 5.04, 5.0).layers
