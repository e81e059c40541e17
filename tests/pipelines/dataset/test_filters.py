"""Filters of labels, thresholds, derived examples and splits."""

from __future__ import annotations

import pytest

from pipelines.dataset import filters
from pipelines.dataset.annotate import Shot
from pipelines.dataset.derive import examples
from pipelines.dataset.filters import AnsweredPicture, Objects, Step
from pipelines.dataset.labels import LabelledObject, LabelledPicture
from pipelines.dataset.metrics.detection import best_threshold
from pipelines.dataset.split import split_by_time
from pipelines.florence2.examples import prefix, suffix
from streamer.core.boxes import Rect
from streamer.types import Answer, Box

LEFT: Rect = (0.1, 0.1, 0.3, 0.3)
RIGHT: Rect = (0.6, 0.6, 0.8, 0.8)
LOWER_RIGHT = filters.Area(((0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)))


def car(box: Rect = LEFT, score: float | None = 0.9, label: str = "car") -> LabelledObject:
    return LabelledObject(label, box, score=score)


def moved(box: Rect, by: float) -> Rect:
    return box[0] + by, box[1], box[2] + by, box[3]


def kept(step: Step, *objects: LabelledObject, answers: dict[str, Answer] | None = None) -> list[LabelledObject]:
    (left,), _ = filters.run([step], [AnsweredPicture("a.jpg", answers or {})], [list(objects)])
    return left


def test_low_scores_are_removed() -> None:
    step = filters.by_score(0.5, {"van": 0.8})
    objects = [car(score=0.6), car(score=0.4), car(score=0.6, label="van"), car(score=None)]
    assert kept(step, *objects) == [objects[0], objects[3]]


def test_refused_labels_sizes_and_places_are_removed() -> None:
    small, large = car((0.1, 0.1, 0.105, 0.105)), car((0, 0, 1, 0.99))
    assert kept(filters.by_label(["van"]), car(), car(label="van")) == [car()]
    assert kept(filters.by_size(), car(), small, large) == [car()]
    assert kept(filters.by_place([LOWER_RIGHT]), car(), car(RIGHT)) == [car()]


def test_best_of_overlapping_objects_stays() -> None:
    step = filters.by_overlap()
    near, nearer = moved(LEFT, 0.04), moved(LEFT, 0.005)
    assert kept(step, car(score=0.5), car(near, 0.9)) == [car(near, 0.9)]
    assert len(kept(step, car(), car(near, label="van"))) == 2
    assert kept(step, car(score=0.5), car(nearer, 0.9, "van")) == [car(nearer, 0.9, "van")]


def test_object_that_no_other_task_found_is_removed() -> None:
    step = filters.by_agreement(["region_proposal", "dense_region_caption"])
    answers = {
        "region_proposal": Answer(boxes=(Box(*moved(LEFT, 0.01), ""),)),
        "dense_region_caption": Answer(boxes=(Box(*RIGHT, "red van"),)),
    }
    assert kept(step, car(), car(RIGHT), car(RIGHT, label="van"), answers=answers) == [car(), car(RIGHT, label="van")]


def timed(*objects: list[LabelledObject], stream: str = "gate") -> tuple[list[AnsweredPicture], Objects]:
    pictures = [AnsweredPicture(f"{number}.jpg", {}, stream, float(number)) for number in range(len(objects))]
    return pictures, list(objects)


def test_object_in_one_picture_only_is_removed() -> None:
    flash = car(RIGHT)
    left, table = filters.run(
        [filters.by_tracks(1.5)], *timed([car()], [car(moved(LEFT, 0.1)), flash], [car(moved(LEFT, 0.2))])
    )
    assert [len(some) for some in left] == [1, 1, 1]
    assert table.removed == {(1, flash): "tracks"}
    assert table.rows[0].removed == {"car": 1}


def test_object_missed_in_one_picture_is_added() -> None:
    left, table = filters.run([filters.by_tracks(1.5)], *timed([car()], [], [car(moved(LEFT, 0.2), 0.7)]))
    (added,) = left[1]
    assert added.box == pytest.approx(moved(LEFT, 0.1))
    assert (added.label, added.score) == ("car", 0.7)
    assert table.rows[0].added == {"car": 1}


def test_tracks_do_not_cross_cameras_and_gaps() -> None:
    pictures, objects = timed([car()], [], [car()])
    apart = [pictures[0], AnsweredPicture("b", {}, "yard", 0.5), AnsweredPicture("c", {}, "gate", 99.0)]
    left, _ = filters.run([filters.by_tracks(1.5)], apart, objects)
    assert left == objects


def test_table_names_filter_and_reason() -> None:
    steps = [filters.by_score(0.5), filters.by_label(["van"])]
    _, table = filters.run(steps, [AnsweredPicture("a.jpg", {})], [[car(score=0.1), car(label="van"), car()]])
    assert [(row.name, dict(row.removed), row.kept) for row in table.rows] == [
        ("score", {"car": 1}, 2),
        ("label", {"van": 1}, 1),
    ]
    assert table.rows[0].why == "score below 0.5"


def test_threshold_is_fitted_to_reviewed_pictures() -> None:
    found = [car(score=0.9), car(moved(LEFT, 0.3), 0.6), car(RIGHT, 0.5), car(moved(RIGHT, -0.5), 0.3)]
    truth = [car(), car(RIGHT)]
    pictures = [(found, truth)]
    assert best_threshold(pictures) == 0.5
    assert best_threshold(pictures, precision=0.99) == 0.9
    assert best_threshold([([car(RIGHT)], truth[:1])], precision=0.5) > 0.9


def test_objects_become_examples_of_tasks() -> None:
    square = ((0.1, 0.1), (0.3, 0.1), (0.3, 0.3))
    picture = LabelledPicture("a.jpg", 100, 100, (car(RIGHT), LabelledObject("van", LEFT, (square,))))
    tasks = ["object_detection", "open_vocabulary_detection", "region_to_category", "referring_segmentation"]
    made = [(prefix(one), suffix(one)) for one in examples(picture, tasks)]
    left, right = "<loc_100><loc_100><loc_300><loc_300>", "<loc_600><loc_600><loc_800><loc_800>"
    assert made == [
        ("<OD>", f"van{left}car{right}"),
        ("<OPEN_VOCABULARY_DETECTION>car", f"car{right}"),
        ("<OPEN_VOCABULARY_DETECTION>van", f"van{left}"),
        (f"<REGION_TO_CATEGORY>{left}", "van"),
        (f"<REGION_TO_CATEGORY>{right}", "car"),
        ("<REFERRING_EXPRESSION_SEGMENTATION>van", "<loc_100><loc_100><loc_300><loc_100><loc_300><loc_300>"),
    ]
    with pytest.raises(ValueError, match="say nothing about the task ocr"):
        list(examples(picture, ["ocr"]))


def test_held_out_pictures_are_later_ones() -> None:
    shots = [Shot(f"{second}.jpg", "gate", float(second)) for second in range(0, 1000, 10)]
    train, held_out = split_by_time(shots[::-1], share=0.2, gap=60)
    assert [shot.taken_at for shot in held_out] == [float(second) for second in range(800, 1000, 10)]
    assert max(shot.taken_at or 0 for shot in train) <= 740
    untimed = [Shot(f"{number}.jpg") for number in range(10)]
    assert split_by_time(untimed) == (untimed[:8], untimed[8:])
