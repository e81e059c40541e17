"""Tasks in tiles: their pictures, the mapping back, and the merging of what they find."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.florence2.composite import CompositeEngine
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.stages import stages_of
from pipelines.florence2.tasks import SPECS
from pipelines.florence2.tiles import Tiles, merged
from streamer.config import model
from streamer.core.errors import ConfigError
from streamer.types import Answer, Box, DueTask, Frame, Image, Job, Polygon, Quad, Result, Task
from tests.support.checkpoints import make_image, make_job

SIZE = WIDTH, HEIGHT = 640, 480
DOT = (1, 2, 3)


class DotEngine:
    """An engine that answers with a box around each pixel of the colour DOT, labelled with the job's text or "dot"."""

    model = description = "dots"
    warnings = ()

    def __init__(self, places: int = 3, fails_at: int | None = None) -> None:
        self._places, self._fails_at = places, fails_at
        self._jobs: list[Job] = []
        self.sizes: list[tuple[int, ...]] = []

    def free(self) -> int:
        return self._places - len(self._jobs)

    def admit(self, jobs: Any) -> None:
        assert len(jobs) <= self.free()
        self._jobs += jobs

    def step(self) -> list[Result]:
        jobs, self._jobs = self._jobs, []
        return [self._answer(job) for job in jobs]

    def _answer(self, job: Job) -> Result:
        image = job.frame.image
        self.sizes.append(image.shape[:2])
        if len(self.sizes) == self._fails_at:
            return Result(job, "error", error="too long")
        height, width = image.shape[:2]
        label = job.due.task.params.prompt_text or "dot"
        boxes = tuple(
            Box(column / width, row / height, (column + 1) / width, (row + 1) / height, label, 0.5)
            for row, column in np.argwhere((image == DOT).all(axis=2))
        )
        return Result(job, "ok" if boxes else "empty", Answer(boxes=boxes), inference_s=0.1)


def picture(*dots: tuple[int, int], size: tuple[int, int] = SIZE) -> Image:
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    for x, y in dots:
        image[y, x] = DOT
    image.flags.writeable = False
    return image


def job(image: Image, task: str = "object_detection", **keys: Any) -> Job:
    params = SPECS[task].parameters.model_validate(keys)
    return Job(DueTask("s", Task("far", task, params), 0.0), Frame("s", 1, 0, 0.0, 0.0, None, image))


def answer(engine: Any, asked: Job) -> Result:
    engine.admit([asked])
    while True:
        for result in engine.step():
            assert isinstance(result, Result)
            return result


def composite(**keys: Any) -> tuple[DotEngine, CompositeEngine]:
    inner = DotEngine(**keys)
    return inner, CompositeEngine(inner, stages_of)


@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    overlap=st.floats(0, 0.5),
    size=st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
)
def test_tiles_cover_the_picture_with_overlap(grid: tuple[int, int], overlap: float, size: tuple[int, int]) -> None:
    tiles = Tiles(grid=grid, overlap=overlap, whole=False).parts(*size)
    assert len(tiles) == grid[0] * grid[1]
    for axis in (0, 1):
        spans = sorted({(tile[axis], tile[axis + 2]) for tile in tiles})
        assert (spans[0][0], spans[-1][1]) == (0, size[axis])
        lengths = {end - start for start, end in spans}
        assert len(lengths) == 1
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= overlap * min(lengths) - 2


@pytest.mark.parametrize("size", [(640, 480), (641, 479), (333, 217)])
@pytest.mark.parametrize("grid", ["2x2", "3x2", "4x4"])
def test_each_dot_is_found_once_at_its_own_pixel(size: tuple[int, int], grid: str) -> None:
    width, height = size
    dots = [(0, 0), (width - 1, height - 1), (width // 2, height // 2), (width // 3, height // 4), (5, height // 2)]
    for whole in (True, False):
        inner, engine = composite()
        asked = job(picture(*dots, size=size), tiles={"grid": grid, "whole": whole})
        result = answer(engine, asked)
        assert result.job is asked
        places = sorted((round(box.x0 * width, 6), round(box.y0 * height, 6)) for box in result.answer.boxes)
        assert places == sorted(dots)
        assert len(inner.sizes) == int(grid[0]) * int(grid[2]) + whole
        assert ((height, width) in inner.sizes) == whole


def test_tiled_job_is_one_result_with_the_cost_of_all() -> None:
    _, engine = composite()
    result = answer(engine, job(picture((3, 3)), tiles="2x2"))
    assert result.device_seconds == pytest.approx(0.5)
    assert SPECS["object_detection"].parameters.model_validate({"tiles": "2x2"}).prompts == {"object_detection": 5}


def test_failed_tile_fails_the_job_and_is_named() -> None:
    _, engine = composite(fails_at=3)
    result = answer(engine, job(picture((3, 3)), tiles="2x2"))
    assert (result.outcome, result.error) == ("error", "picture 3 of 5: too long")
    assert not result.answer.boxes


def test_texts_of_a_list_are_searched_in_each_tile() -> None:
    inner, engine = composite()
    asked = job(picture((3, 3), (600, 400)), "open_vocabulary_detection", text=["a", "b"], tiles="2x1")
    result = answer(engine, asked)
    assert sorted(box.label for box in result.answer.boxes) == ["a", "a", "b", "b"]
    assert len(inner.sizes) == 6
    assert asked.due.task.params.prompts == {"open_vocabulary_detection": 6}


LEFT, RIGHT, ALL = (0, 0, 60, 100), (40, 0, 100, 100), (0, 0, 100, 100)


def boxes(answers: list[Answer], *parts: Any, by_label: bool = True) -> list[tuple[str, list[int]]]:
    """Return label and pixels of the merged boxes of a picture of 100x100."""
    found = merged(answers, parts, 100, 100, by_label).boxes
    return [(box.label, [round(100 * edge) for edge in (box.x0, box.y0, box.x1, box.y1)]) for box in found]


def test_object_in_two_tiles_is_kept_with_its_best_score() -> None:
    one = Answer(boxes=(Box(45 / 60, 0.4, 55 / 60, 0.6, "car", 0.6),))
    two = Answer(boxes=(Box(5 / 60, 0.4, 15 / 60, 0.62, "car", 0.9),))
    assert boxes([one, two], LEFT, RIGHT) == [("car", [45, 40, 55, 62])]


def test_piece_at_a_border_yields_to_the_whole_object() -> None:
    """The piece has the better score and little overlap with the whole object."""
    piece = Answer(boxes=(Box(0.9, 0.4, 1.0, 0.6, "car", 0.95),))  # pixels 54 to 60 of the left tile
    whole = Answer(boxes=(Box(14 / 60, 0.4, 40 / 60, 0.6, "car", 0.5),))  # pixels 54 to 80 of the right tile
    assert boxes([piece, whole], LEFT, RIGHT) == [("car", [54, 40, 80, 60])]


def test_small_object_before_a_large_one_is_kept() -> None:
    large = Answer(boxes=(Box(0.1, 0.1, 0.9, 0.9, "car", 0.9),))
    small = Answer(boxes=(Box(0.4, 0.4, 0.6, 0.6, "car", 0.3),))
    assert len(boxes([large, small], ALL, RIGHT)) == 2


def test_piece_without_its_whole_object_is_kept() -> None:
    piece = Answer(boxes=(Box(0.9, 0.4, 1.0, 0.6, "car", 0.5),))
    assert boxes([piece, Answer()], LEFT, RIGHT) == [("car", [54, 40, 60, 60])]


def test_edge_of_the_picture_cuts_nothing() -> None:
    """The shape at the picture's own edge keeps its place before a lower score."""
    edge = Answer(boxes=(Box(0.0, 0.4, 0.5, 0.6, "car", 0.9),))
    other = Answer(boxes=(Box(0.0, 0.4, 0.31, 0.6, "car", 0.5),))
    assert boxes([edge, other], LEFT, ALL) == [("car", [0, 40, 30, 60])]


def test_other_labels_and_shapes_of_one_picture_are_kept() -> None:
    twice = Box(45 / 60, 0.4, 55 / 60, 0.6, "person", 0.6)
    one, two = Answer(boxes=(twice, twice)), Answer(boxes=(Box(5 / 60, 0.4, 15 / 60, 0.6, "bicycle", 0.9),))
    assert [label for label, _ in boxes([one, two], LEFT, RIGHT)] == ["person", "person", "bicycle"]
    assert [label for label, _ in boxes([one, two], LEFT, RIGHT, by_label=False)] == ["bicycle"]


def test_outlines_and_texts_are_merged_by_bounding_box() -> None:
    def corners(left: float, right: float) -> Any:
        return ((left, 0.4), (right, 0.4), (right, 0.5), (left, 0.5))

    one = Answer(quads=(Quad(corners(50 / 60, 1.0), "COFF", 0.9),), polygons=(Polygon(corners(0.1, 0.2), "dog"),))
    two = Answer(quads=(Quad(corners(10 / 60, 40 / 60), "COFFEE", 0.8),))
    both = merged([one, two], [LEFT, RIGHT], 100, 100, by_label=False)
    assert [quad.label for quad in both.quads] == ["COFFEE"]
    assert both.quads[0].points[0] == pytest.approx((0.5, 0.4))
    assert len(both.polygons) == 1


@pytest.mark.parametrize("kind", ["fast", "plain"])
def test_tiles_equal_their_crops_one_by_one(kind: Any, checkpoint: Path) -> None:
    settings = Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=2, engine=kind)
    engine, image = pipeline.open(settings), make_image(1)
    whole = answer(engine, make_job("region_proposal", image, tiles="2x1"))
    height, width = image.shape[:2]
    parts = Tiles(grid=(2, 1)).parts(width, height)
    alone = [
        answer(engine, make_job("region_proposal", np.ascontiguousarray(image[top:bottom, left:right]))).answer
        for left, top, right, bottom in parts
    ]

    def places(one: Answer) -> list[str]:
        return [repr(replace(box, score=None)) for box in one.boxes]

    assert places(whole.answer) == places(merged(alone, parts, width, height, by_label=False))
    assert engine.free() == 2


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        ("1x1", "must be columns x rows, such as 2x2, at most 4x4"),
        ("5x2", "must be columns x rows"),
        ("2", "must be columns x rows"),
        ({"grid": "2x2", "overlap": 0.6}, "less than or equal to 0.5"),
        ({"overlap": 0.1}, "grid"),
    ],
)
def test_wrong_tiles_are_refused(tiles: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SPECS["object_detection"].parameters.model_validate({"tiles": tiles})


@pytest.mark.parametrize("keys", ["task: caption", "task: referring_segmentation, text: a dog"])
def test_tiles_of_a_task_without_boxes_are_refused(keys: str, tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(f"streams:\n  gate:\n    source: synthetic\n    tasks:\n      - {{{keys}, tiles: 2x2}}\n")
    with pytest.raises(ConfigError, match=r"home.yaml:5: .*tiles"):
        model.load(path)


def test_second_look_at_tiles_is_refused() -> None:
    keys = {"text": "a dog", "tiles": "2x2", "confirm": {}}
    with pytest.raises(ValidationError, match="give either `confirm` or `tiles`"):
        SPECS["open_vocabulary_detection"].parameters.model_validate(keys)
