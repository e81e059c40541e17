"""Track ids of the real tracker on the known objects of the toy world."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamer.events.build import result_event
from streamer.events.schema import ResultEvent, decode, encode
from streamer.inference import tracking
from streamer.inference.tracking import ObjectTracker
from streamer.toyworld.world import SCENE_SECONDS, World
from streamer.types import Answer, Box, DueTask, Frame, Job, Outcome, Result, Task
from tests.support.tasks import PARAMS

PICTURE = np.zeros((480, 640, 3), np.uint8)


def result(at: float, boxes: Sequence[Box], name: str = "objects", epoch: int = 1, outcome: Outcome = "ok") -> Result:
    frame = Frame("gate", epoch, round(25 * at), 1000 + at, at, at, PICTURE)
    return Result(
        Job(DueTask("gate", Task(name, "object_detection", PARAMS), 0.0), frame), outcome, Answer(boxes=tuple(boxes))
    )


def tracker() -> ObjectTracker:
    return ObjectTracker({("gate", "objects"): 1.0}, lambda: None)


def ids(tracked: Result) -> list[int | None]:
    return [box.track for box in tracked.answer.boxes]


def box(x: float, label: str = "car") -> Box:
    return Box(x, 0.4, x + 0.2, 0.6, label)


def test_objects_of_the_toy_world_keep_their_ids() -> None:
    """One result a second: almost every object keeps one id from its second detection on, and no two share one."""
    seen: dict[tuple[int, int], set[int]] = {}
    for seed in range(1, 6):
        object_tracker, world = tracker(), World(seed)
        for second in range(36):
            truth = world.scene(float(second)).objects
            scene = int(second // SCENE_SECONDS)
            shapes = sorted(truth, key=lambda thing: (thing.kind, thing.colour, len(thing.contours)))
            tracked = object_tracker.assign_ids(
                result(float(second), [Box(*thing.box, thing.kind) for thing in shapes])
            )
            assert len({track for track in ids(tracked) if track is not None}) == sum(
                track is not None for track in ids(tracked)
            )
            for number, track in enumerate(ids(tracked)):
                if track is not None:
                    seen.setdefault((seed, 100 * scene + number), set()).add(track)
    objects = len(seen)
    changes = sum(len(found) - 1 for found in seen.values())
    assert objects > 20
    assert changes <= 0.2 * objects


def test_boxes_keep_their_order() -> None:
    object_tracker = tracker()
    object_tracker.assign_ids(result(0, [box(0.0), box(0.7), box(0.3, "cat")]))
    first = object_tracker.assign_ids(result(1, [box(0.0), box(0.7), box(0.3, "cat")]))
    second = object_tracker.assign_ids(result(2, [box(0.31, "cat"), box(0.71), box(0.01)]))
    assert [one.x0 for one in second.answer.boxes] == [0.31, 0.71, 0.01]
    assert ids(second) == ids(first)[::-1]
    assert len(set(ids(second))) == 3


def test_different_labels_never_share_an_id() -> None:
    object_tracker = tracker()
    object_tracker.assign_ids(result(0, [box(0.1, "car")]))
    object_tracker.assign_ids(result(1, [box(0.1, "car")]))
    assert ids(object_tracker.assign_ids(result(2, [box(0.1, "cat")]))) == [None]


def test_results_without_answer_are_not_tracked() -> None:
    object_tracker = tracker()
    object_tracker.assign_ids(result(0, [box(0.1)]))
    known = ids(object_tracker.assign_ids(result(1, [box(0.1)])))
    assert object_tracker.assign_ids(result(1.5, [], outcome="error")).answer.boxes == ()
    assert ids(object_tracker.assign_ids(result(2, [box(0.1)]))) == known != [None]


def test_ids_are_not_reused_after_a_new_connection() -> None:
    object_tracker = tracker()
    object_tracker.assign_ids(result(0, [box(0.1)]))
    (before,) = ids(object_tracker.assign_ids(result(1, [box(0.1)])))
    assert ids(object_tracker.assign_ids(result(0, [box(0.1)], epoch=2))) == [None]
    (after,) = ids(object_tracker.assign_ids(result(1, [box(0.1)], epoch=2)))
    assert before is not None
    assert after is not None
    assert after > before


def test_object_gets_a_new_id_after_a_long_absence() -> None:
    object_tracker = tracker()
    object_tracker.assign_ids(result(0, [box(0.1)]))
    (before,) = ids(object_tracker.assign_ids(result(1, [box(0.1)])))
    object_tracker.assign_ids(result(2, []))
    assert ids(object_tracker.assign_ids(result(3, [box(0.1)]))) == [before]
    for second in range(4, 20):
        object_tracker.assign_ids(result(second, []))
    assert ids(object_tracker.assign_ids(result(20, [box(0.1)]))) == [None]


def test_tasks_do_not_share_ids() -> None:
    object_tracker = tracker()
    for second in range(2):
        one = object_tracker.assign_ids(result(second, [box(0.1)], "one"))
        two = object_tracker.assign_ids(result(second, [box(0.1)], "two"))
    assert ids(one) != ids(two)


def test_event_contains_the_track_id() -> None:
    tracked = result(1, [replace(box(0.1), track=42)])
    event = decode(encode(result_event("home", tracked, "tiny")))
    assert isinstance(event, ResultEvent)
    assert event.data.result is not None
    assert event.data.result.boxes[0].track == 42


def test_beyond_max_labels_the_least_recently_seen_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MAX_LABELS", 2)
    object_tracker, names = tracker(), ("car", "cat", "dog")
    for second, labels in enumerate([names[:2], names[:2], names[:1], names[2:], names[2:]]):
        object_tracker.assign_ids(result(second, [box(0.3 * names.index(label), label) for label in labels]))
    tracked = object_tracker.assign_ids(result(5, [box(0.3 * number, label) for number, label in enumerate(names)]))
    car, cat, dog = ids(tracked)
    assert car == 1
    assert cat is None, "the label cat was the least recently seen when dog came"
    assert dog is not None


def test_first_answer_does_not_wait_for_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = threading.Event()
    monkeypatch.setattr(tracking, "import_libraries", imported.wait)
    object_tracker = ObjectTracker({}, imported.set)
    assert ids(object_tracker.assign_ids(result(0, [box(0.1)]))) == [None]
    assert ids(object_tracker.assign_ids(result(0, [box(0.1)], "others"))) == [None]
    assert not imported.is_set()  # the second answer reports its wait, which ends it
    assert ids(object_tracker.assign_ids(result(1, [box(0.1)]))) == [1]
    assert ids(object_tracker.assign_ids(result(1, [box(0.1)], "others"))) == [2]
