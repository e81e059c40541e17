"""Pictures of results and incidents, with and without boxes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamer.core.errors import SnapshotError
from streamer.core.jpeg import encode_jpeg
from streamer.events.build import status_event
from streamer.events.result_data import Snapshot
from streamer.events.schema import ResultEvent
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.events.snapshots.picture import Shape, draw, picture_of
from streamer.rules.engine import Engine
from streamer.types import Image
from tests.support.stories import Story, run

GREY = np.full((240, 320, 3), 90, np.uint8)


def stored(tmp_path: Path, event: ResultEvent) -> ResultEvent:
    """Store a grey picture as the snapshot of an event; return the event with it."""
    jpeg = encode_jpeg(GREY, 90)
    assert jpeg is not None
    SnapshotFolder(tmp_path).write("gate", event.id, jpeg.content)
    digest = hashlib.sha256(jpeg.content).hexdigest()
    snapshot = Snapshot(sha256=digest, bytes=len(jpeg.content), width=jpeg.width, height=jpeg.height)
    return event.model_copy(update={"data": event.data.model_copy(update={"snapshot": snapshot})})


def pixels(jpeg: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def is_outline(image: Image, x: int, y: int) -> bool:
    return bool(np.abs(image[y, x].astype(int) - 90).max() > 40)  # a thin line is blurred by the JPEG


def test_incident_has_picture_of_its_best_frame(tmp_path: Path) -> None:
    story = Story("", {"when": {"label": "person", "task": "people"}}, "0 person@0.5,0.5*0.8\n1 person*0.7", [])
    first, second = story.events()
    assert isinstance(first, ResultEvent)
    first = stored(tmp_path, first.model_copy(update={"id": "ab" * 16}))
    (start,) = run(Engine(story.config()), [first, second])
    assert start.data.best.snapshot == first.data.snapshot
    plain = pixels(picture_of(tmp_path, start))
    assert np.abs(plain.astype(int) - GREY).max() <= 3
    # The box is 0.4 to 0.6 and 0.3 to 0.5 of the frame.
    for event in (start, first):
        drawn = pixels(picture_of(tmp_path, event, boxes=True))
        assert drawn.shape == GREY.shape
        assert all(is_outline(drawn, x, y) for x, y in ((128, 100), (191, 100), (160, 120)))
        assert not is_outline(drawn, 160, 100)


def test_status_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="only results and incidents"):
        picture_of(tmp_path, status_event("home", "gate", "up"))


def test_wild_shapes_are_drawn_inside_the_picture(tmp_path: Path) -> None:
    jpeg = encode_jpeg(GREY, 90)
    assert jpeg is not None
    wild = Shape(((-5.0, -5.0), (9.0, -5.0), (9.0, 9.0)), "x" * 300)
    point = Shape(((0.5, 0.5),), "ünïcode \x00")
    assert pixels(draw(jpeg.content, [wild, point])).shape == GREY.shape


def test_file_that_is_no_picture_is_refused() -> None:
    with pytest.raises(SnapshotError, match="not a picture"):
        draw(b"no picture", [])
