"""Parsing: equal to transformers for well-formed answers, and without exceptions for any text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.florence2.parse import parse
from pipelines.florence2.tasks import Form
from pipelines.florence2.training.checkpoint_builder import POST_PROCESSOR
from streamer.types import Answer, Box

# In these sizes a float32 holds the middle of a bin exactly, so the rounding to whole pixels is exact.
SIZES = ((1000, 2000), (2000, 500), (4000, 1000))

bins = st.integers(0, 999)
words = st.text("abcdefgh XYZ,.'-019()", min_size=1).map(str.strip).filter(bool)
same = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def locs(*values: int) -> str:
    return "".join(f"<loc_{value}>" for value in values)


@st.composite
def corners(draw: st.DrawFn) -> str:
    (x0, x1), (y0, y1) = (sorted(draw(st.tuples(bins, bins))) for _ in range(2))
    return locs(x0, y0, x1, y1)


ring = st.lists(st.tuples(bins, bins), min_size=3, max_size=6).map(lambda pairs: locs(*sum(pairs, ())))
rings = st.lists(ring, min_size=1, max_size=3).map("<sep>".join)
masks = st.lists(rings.map(lambda text: f"<poly>{text}</poly>"), min_size=1, max_size=3).map("".join)
boxes = st.lists(corners(), min_size=1, max_size=3).map("".join)
fours = st.lists(bins, min_size=8, max_size=8).map(lambda values: locs(*values))


def framed(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return whole answers of such parts, with start, end and padding."""
    endings = st.sampled_from(["</s>", "</s><pad><pad>", ""])
    return st.builds(lambda parts, end: f"</s><s>{''.join(parts)}{end}", st.lists(part, max_size=4), endings)


def labelled(marks: st.SearchStrategy[str], label: st.SearchStrategy[str] = words) -> st.SearchStrategy[str]:
    return st.builds(lambda text, run: text + run, label, marks)


Native = Callable[[str, str, tuple[int, int]], Any]


@pytest.fixture(scope="session")
def native(processor: Any) -> Native:
    """The parser of transformers: (task, text, (width, height)) to its answer."""

    def read(task: str, text: str, size: tuple[int, int]) -> Any:
        return processor.post_process_generation(text, task=task, image_size=size)[task]

    return read


def cut(points: Any, size: tuple[int, int]) -> list[int]:
    # 1e-6 because 0.5005 * 2000 is 1000.9999999.
    return [int(value * size[axis % 2] + 1e-6) for axis, value in enumerate(sum(points, ()))]


def box_pixels(found: Box, size: tuple[int, int]) -> list[int]:
    return cut(((found.x0, found.y0), (found.x1, found.y1)), size)


def check_boxes(answer: Answer, theirs: Any, size: tuple[int, int], labels: str = "labels") -> None:
    assert [box_pixels(found, size) for found in answer.boxes] == theirs["bboxes"]
    assert [found.label for found in answer.boxes] == theirs[labels]


@same
@given(words, st.sampled_from(["</s>", "</s><pad>"]))
def test_text_parses_as_in_transformers(native: Native, text: str, end: str) -> None:
    answer = parse("text", f"</s><s>{text}{end}")
    assert answer.text == native("<CAPTION>", f"</s><s>{text}</s>", (10, 10))


@same
@given(framed(labelled(boxes)), st.sampled_from(SIZES))
def test_boxes_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    for task in ("<OD>", "<DENSE_REGION_CAPTION>"):
        check_boxes(parse("boxes", text), native(task, text, size), size)


@same
@given(framed(boxes), st.sampled_from(SIZES))
def test_regions_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    answer = parse("regions", text)
    check_boxes(answer, native("<REGION_PROPOSAL>", text, size), size)
    assert {found.label for found in answer.boxes} <= {""}


@same
@given(framed(labelled(boxes, words | st.sampled_from(["it", "the image", "it all"]))), st.sampled_from(SIZES))
def test_phrases_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    banned = frozenset(POST_PROCESSOR["phrase_grounding"]["banned_grounding_tokens"])
    check_boxes(parse("phrases", text, banned), native("<CAPTION_TO_PHRASE_GROUNDING>", text, size), size)


@same
@given(st.one_of(masks, rings).map("</s><s>{}</s>".format), st.sampled_from(SIZES))
def test_polygons_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    for task in ("<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"):
        theirs = [points for mask in native(task, text, size)["polygons"] for points in mask]
        assert [cut(found.points, size) for found in parse("polygons", text).polygons] == theirs


@same
@given(st.one_of(framed(labelled(boxes)), framed(labelled(masks))), st.sampled_from(SIZES))
def test_boxes_or_polygons_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    answer, theirs = parse("boxes_or_polygons", text), native("<OPEN_VOCABULARY_DETECTION>", text, size)
    check_boxes(answer, theirs, size, "bboxes_labels")
    pairs = zip(theirs["polygons"], theirs["polygons_labels"], strict=True)
    expected = [(points, label) for mask, label in pairs for points in mask]
    assert [(cut(found.points, size), found.label) for found in answer.polygons] == expected


@same
@given(
    framed(labelled(fours, st.text("abc ÄÖÜß漢字<>&!\"'/", min_size=1).map(str.strip).filter(bool))),
    st.sampled_from(SIZES),
)
def test_quads_parse_as_in_transformers(native: Native, text: str, size: tuple[int, int]) -> None:
    answer, theirs = parse("quads", text), native("<OCR_WITH_REGION>", text, size)
    assert [cut(found.points, size) for found in answer.quads] == theirs["quad_boxes"]
    assert [found.label for found in answer.quads] == theirs["labels"]


def test_coordinates_are_middles_of_bins() -> None:
    assert parse("boxes", "car<loc_0><loc_1><loc_500><loc_999>").boxes == (Box(0.0005, 0.0015, 0.5005, 0.9995, "car"),)


@pytest.mark.parametrize(
    ("form", "text", "left"),
    [
        ("boxes", "car<loc_1><loc_2><loc_3>", ()),
        ("boxes", locs(1, 2, 3, 4), ()),
        ("boxes", "car<loc_9><loc_2><loc_3><loc_4>", ()),
        ("boxes", "car" + locs(1, 2, 3, 1000) + locs(1, 2, 3, 4) + locs(5, 6), ((1, 2, 3, 4, "car"),)),
        ("boxes", "café" + locs(1, 2, 3, 4), ((1, 2, 3, 4, "café"),)),
        (
            "boxes",
            "a<b" + locs(1, 2, 3, 4) + "<od>dog<and>" + locs(5, 6, 7, 8),
            ((1, 2, 3, 4, "a<b"), (5, 6, 7, 8, "dog")),
        ),
        (
            "boxes",
            "a car" + locs(1, 2, 3, 4) + "<sep>" + locs(5, 6, 7, 8),
            ((1, 2, 3, 4, "a car"), (5, 6, 7, 8, "a car")),
        ),
        ("boxes", "a car<poly>" + locs(1, 2, 3, 4, 5), ((1, 2, 3, 4, "a car"),)),
        ("regions", "<sep>" + locs(1, 2, 3, 4), ((1, 2, 3, 4, ""),)),
        ("boxes_or_polygons", "car" + locs(1, 2, 3, 4) + "<poly>", ()),
        ("boxes_or_polygons", "car" + locs(1, 2, 3, 4) + "dog<poly><loc_1></poly>", ((1, 2, 3, 4, "car"),)),
        ("regions", "what" + locs(1, 2, 3, 4), ((1, 2, 3, 4, ""),)),
    ],
)
def test_well_formed_parts_of_broken_answer_are_kept(form: Form, text: str, left: tuple[Any, ...]) -> None:
    middles = [tuple((index + 0.5) / 1000 for index in entry[:4]) + entry[4:] for entry in left]
    assert [(box.x0, box.y0, box.x1, box.y1, box.label) for box in parse(form, text).boxes] == middles


def test_mask_cut_short_keeps_complete_points() -> None:
    assert [len(found.points) for found in parse("polygons", "<poly>" + locs(*range(11))).polygons] == [5]
    assert parse("polygons", "<poly>" + locs(1, 2, 3, 4, 5)).is_empty


def test_text_keeps_line_breaks() -> None:
    assert parse("quads", "one\ntwo" + locs(*range(8))).quads[0].label == "one\ntwo"
    assert parse("text", "<s>one\ntwo</s>").text == "one\ntwo"


# -- malformed answers: well-formed shapes that transformers finds are found too

_STRAY = ["<loc_7>", "<loc_999>", "<poly>", "</poly>", "<sep>", "<pad>", "é", "漢", " and ", ""]


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[str]) -> str:
    """Return an answer with removed, doubled or replaced tokens."""
    tokens = re.findall(r"<[^<>]+>|[^<]+", draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(tokens) - 1)))
        tokens[place : place + draw(st.integers(0, 2))] = [draw(st.sampled_from(_STRAY))] * draw(st.integers(0, 2))
    return "".join(tokens)


def plain(label: str) -> str:
    """Return the label without non-ASCII characters, as transformers does."""
    return label.encode("ascii", "ignore").decode().strip()


def check_all_found(theirs: list[Any], ours: list[Any]) -> None:
    missing = Counter(map(str, theirs)) - Counter(map(str, ours))
    assert not missing


def sound_boxes(theirs: Any) -> list[Any]:
    """Return the boxes with ordered corners and no token fragments in the label, which the library does not strip."""
    pairs = zip(theirs["bboxes"], theirs["labels"], strict=True)
    return [(box, label.strip()) for box, label in pairs if box[0] <= box[2] and box[1] <= box[3] and ">" not in label]


@same
@given(damaged(framed(labelled(boxes))), st.sampled_from(SIZES))
def test_boxes_in_damaged_answers_are_found(native: Native, text: str, size: tuple[int, int]) -> None:
    ours = [(box_pixels(box, size), plain(box.label)) for box in parse("boxes", text).boxes]
    check_all_found(sound_boxes(native("<OD>", text, size)), ours)


@same
@given(damaged(framed(boxes)), st.sampled_from(SIZES))
def test_regions_in_damaged_answers_are_found(native: Native, text: str, size: tuple[int, int]) -> None:
    ours = [(box_pixels(box, size), "") for box in parse("regions", text).boxes]
    check_all_found(sound_boxes(native("<REGION_PROPOSAL>", text, size)), ours)


@same
@given(damaged(st.one_of(masks, rings).map("</s><s>{}</s>".format)), st.sampled_from(SIZES))
def test_polygons_in_damaged_answers_are_found(native: Native, text: str, size: tuple[int, int]) -> None:
    ours = [cut(found.points, size) for found in parse("polygons", text).polygons]
    masks = native("<REFERRING_EXPRESSION_SEGMENTATION>", text, size)["polygons"]
    check_all_found([points for mask in masks for points in mask if len(points) >= 6], ours)


@same
@given(damaged(framed(labelled(fours))), st.sampled_from(SIZES))
def test_quads_in_damaged_answers_are_found(native: Native, text: str, size: tuple[int, int]) -> None:
    theirs = native("<OCR_WITH_REGION>", text, size)
    ours = [(cut(found.points, size), found.label) for found in parse("quads", text).quads]
    pairs = zip(theirs["quad_boxes"], theirs["labels"], strict=True)
    check_all_found([(quad, label.strip()) for quad, label in pairs if "<" not in label], ours)


_PIECES = ["<loc_5>", "<loc_999>", "<loc_1000>", "<loc_", "<loc_99999>", "<sep>", "<poly>", "</poly>", "<s>", "</s>"]
broken = st.lists(st.sampled_from([*_PIECES, "<od>", "\n", " ", "<"]) | st.text(max_size=5), max_size=40).map("".join)


@settings(max_examples=400)
@given(st.sampled_from(get_args(Form)), broken)
def test_any_text_parses_to_shapes_inside_frame(form: Form, text: str) -> None:
    answer = parse(form, text)
    points = [point for polygon in answer.polygons for point in polygon.points]
    points += [point for quad in answer.quads for point in quad.points]
    points += [corner for box in answer.boxes for corner in ((box.x0, box.y0), (box.x1, box.y1))]
    assert all(0 < value < 1 for point in points for value in point)
    assert all(box.x0 <= box.x1 and box.y0 <= box.y1 for box in answer.boxes)
    assert all(len(polygon.points) >= 3 for polygon in answer.polygons)
    assert all(len(quad.points) == 4 for quad in answer.quads)
