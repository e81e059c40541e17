"""Snapshots for readers: the JPEG of a result or of an incident's best frame, as it is or with boxes drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streamer.core.errors import SnapshotError
from streamer.core.logs import RareLog
from streamer.events.schema import Event, IncidentEvent, ResultEvent
from streamer.events.snapshots.folder import SnapshotFolder
from streamer.types import Point

log = logging.getLogger(__name__)

COLOUR, TEXT_COLOUR = (40, 220, 255), (0, 0, 0)
"""BGR of outlines and of the labels on them."""
MAX_LABEL = 60
"""Characters of a label that are drawn."""
QUALITY = 85
"""Quality of a JPEG with boxes."""


_without_picture = RareLog(log, "%s without its picture: %s", noun="incident")


class Shape(NamedTuple):
    """An outline in fractions of the frame."""

    corners: tuple[Point, ...]
    label: str


def picture_of(state: Path, event: Event, boxes: bool = False) -> bytes:
    """Return the JPEG of a result, or of an incident's best frame, checked against the hash in the event.

    `boxes`: draw the shapes of the result, or the object of the incident. `state`: the state folder of the agent.
    Raises SnapshotError with the reason in words.
    """
    folder = SnapshotFolder(state)
    match event:
        case ResultEvent():
            jpeg = folder.read(event.data.stream, event.id, event.data.snapshot)
        case IncidentEvent():
            jpeg = folder.read(event.data.stream, event.data.best.event, event.data.best.snapshot)
        case _:
            raise SnapshotError("only results and incidents have snapshots")
    return draw(jpeg, list(_shapes(event))) if boxes else jpeg


def incident_picture(state: Path, incident: IncidentEvent) -> bytes | None:
    """Return the JPEG of an incident with its object drawn, or None if there is none that is intact."""
    try:
        return picture_of(state, incident, boxes=True)
    except SnapshotError as error:
        if incident.data.best.snapshot is not None:
            _without_picture.add(error)
        return None


def draw(jpeg: bytes, shapes: Sequence[Shape]) -> bytes:
    """Return a JPEG with outlines and labels drawn on it. Raises SnapshotError if it is no picture."""
    # Imported here: few processes draw. The annotators of the video would take 60 MB more.
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SnapshotError("the snapshot is not a picture")
    height, width = image.shape[:2]
    thick, scale, font = max(1, round(height / 360)), max(0.4, height / 960), cv2.FONT_HERSHEY_SIMPLEX
    for shape in shapes:
        fractions = np.clip(np.array(shape.corners), 0, 1)
        corners = np.round(fractions * (width - 1, height - 1)).astype(np.int32)
        cv2.polylines(image, [corners], True, COLOUR, thick, cv2.LINE_AA)
        if not shape.label:
            continue
        (wide, high), below = cv2.getTextSize(shape.label, font, scale, thick)
        left, top = (int(edge) for edge in corners.min(axis=0))
        left = max(0, min(left, width - wide))
        bottom = max(high + below, top)  # above the shape, or inside where there is no room
        cv2.rectangle(image, (left, bottom - high - below), (left + wide, bottom), COLOUR, cv2.FILLED)
        cv2.putText(image, shape.label, (left, bottom - below // 2), font, scale, TEXT_COLOUR, thick, cv2.LINE_AA)
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not encoded:
        raise SnapshotError("the snapshot is too large to draw on")
    return bytes(data)


def _shapes(event: ResultEvent | IncidentEvent) -> Iterator[Shape]:
    if isinstance(event, IncidentEvent):
        best = event.data.best
        if best.box is not None:
            yield Shape(_corners(best.box), _label(best.label or "", best.score))
    elif event.data.result is not None:
        result = event.data.result
        for box in result.boxes:
            yield Shape(_corners(box.box), _label(box.label, box.score))
        for outline in (*result.polygons, *result.quads):
            if outline.points:
                yield Shape(outline.points, _label(outline.label, outline.score))


def _corners(box: tuple[float, float, float, float]) -> tuple[Point, ...]:
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def _label(label: str, score: float | None) -> str:
    return f"{label[:MAX_LABEL]} {score:.2f}" if score is not None else label[:MAX_LABEL]
