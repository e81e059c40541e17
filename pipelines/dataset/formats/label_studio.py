"""Label Studio JSON (https://labelstud.io/guide/export): tasks with `rectanglelabels` and `polygonlabels`.

Coordinates are percent of the picture. The newest annotation of a task counts; a task without one has no labels yet
and is left out. Objects with scores are written as a prediction, which Label Studio offers for correction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NotRequired
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from pipelines.dataset.labels import (
    Collector,
    LabelledObject,
    LabelledPicture,
    Labels,
    read_bytes,
    rotated,
)
from streamer.core import atomic_file
from streamer.core.boxes import Rect, bounds
from streamer.core.json_input import parse_json

Number = Annotated[float, Field(allow_inf_nan=False)]
_PERCENT = 8
"""Decimals of written percent."""


class _Value(TypedDict):
    x: NotRequired[Number]
    y: NotRequired[Number]
    width: NotRequired[Number]
    height: NotRequired[Number]
    rotation: NotRequired[Number]
    points: NotRequired[list[tuple[Number, Number]]]
    rectanglelabels: NotRequired[list[str]]
    polygonlabels: NotRequired[list[str]]


class _Result(TypedDict):
    type: str
    original_width: NotRequired[int]
    original_height: NotRequired[int]
    value: NotRequired[_Value]
    score: NotRequired[Number | None]


class _Annotation(TypedDict):
    result: list[_Result]
    was_cancelled: NotRequired[bool]


class _Task(TypedDict):
    data: dict[str, Any]
    annotations: NotRequired[list[_Annotation]]
    predictions: NotRequired[list[_Annotation]]


_ADAPTER: TypeAdapter[list[_Task]] = TypeAdapter(list[_Task])


def read(path: Path, predictions: bool = False) -> Labels:
    """Read an export in the format `JSON`. Raises ConfigError for a file that is wrong, with the place.

    `predictions`: read those of the model instead of the annotations of people.
    """
    tasks = parse_json(str(path), _ADAPTER, read_bytes(path))
    collector = Collector(path)
    names: dict[str, None] = {}
    pictures = []
    for number, task in enumerate(tasks):
        where = f"[{number}]"
        given = task.get("predictions", []) if predictions else task.get("annotations", [])
        done = [one for one in given if not one.get("was_cancelled")]
        if not done:
            collector.left_out["picture without a finished annotation"] += 1
            continue
        name = collector.file(where, _file_name(collector, where, task["data"]))
        picture = _picture(collector, where, name, done[-1]["result"])
        names.update(dict.fromkeys(one.label for one in picture.objects))
        pictures.append(picture)
    return Labels(tuple(names), tuple(pictures), dict(collector.left_out))


def _file_name(collector: Collector, where: str, data: Mapping[str, Any]) -> str:
    """Return the name of a task's picture: its path, without the address of a server or its upload prefix."""
    address = data.get("image")
    if not isinstance(address, str):
        raise collector.error(where, "has no `data.image`")
    parts = urlsplit(address)
    # Files of the server's own disk are /data/local-files/?d=FOLDER/FILE.
    listed = parse_qs(parts.query).get("d", [])
    path = listed[0] if listed else unquote(parts.path)
    for prefix in ("/data/upload/", "/data/local-files/"):
        path = path.removeprefix(prefix)
    return path.lstrip("/")


def _picture(collector: Collector, where: str, name: str, results: Sequence[_Result]) -> LabelledPicture:
    objects = []
    width = height = 0
    for number, result in enumerate(results):
        place = f"{where}.result[{number}]"
        width, height = result.get("original_width", width), result.get("original_height", height)
        if result["type"] not in ("rectanglelabels", "polygonlabels"):
            collector.left_out[f"kind {result['type'][:40]}"] += 1
            continue
        collector.size(place, width, height)
        if (found := _object(collector, place, result, (width, height))) is not None:
            objects.append(found)
    return LabelledPicture(name, width, height, tuple(objects))


def _object(collector: Collector, where: str, result: _Result, size: tuple[int, int]) -> LabelledObject | None:
    value = result.get("value", _Value())
    listed = value.get("rectanglelabels", []) or value.get("polygonlabels", [])
    if len(listed) != 1:
        raise collector.error(where, "must have one label")
    label, score = collector.label(where, listed[0]), result.get("score")
    if result["type"] == "polygonlabels":
        points = [(x / 100, y / 100) for x, y in value.get("points", [])]
        return collector.object(where, label, outline=[points], score=score)
    try:
        x, y, w, h = (value[key] / 100 for key in ("x", "y", "width", "height"))
    except KeyError as error:
        raise collector.error(where, f"a rectangle needs {error}") from None
    box: Rect = (x, y, x + w, y + h)
    if not (turn := value.get("rotation", 0.0)):
        return collector.object(where, label, box, score=score)
    corners = rotated(box, turn, (x, y), *size)
    return collector.object(where, label, bounds(corners), [corners], score)


def write(path: Path, labels: Labels, prefix: str = "") -> None:
    """Write tasks for import into Label Studio. `prefix`: the address before each file name. Raises OSError."""
    tasks = []
    for picture in labels.pictures:
        results = [_result(found, picture, index) for index, found in enumerate(picture.objects)]
        scored = any(found.score is not None for found in picture.objects)
        key = "predictions" if scored else "annotations"
        tasks.append({"data": {"image": prefix + picture.file}, key: [{"result": results}]})
    atomic_file.write(path, json.dumps(tasks, ensure_ascii=False) + "\n")


def _result(found: LabelledObject, picture: LabelledPicture, index: int) -> dict[str, Any]:
    kind = "polygonlabels" if len(found.outline) == 1 else "rectanglelabels"
    result = {
        "id": sha256(f"{picture.file}/{index}".encode()).hexdigest()[:10],
        "from_name": "label",
        "to_name": "image",
        "type": kind,
        "original_width": picture.width,
        "original_height": picture.height,
        "image_rotation": 0,
        "value": _shape(found, kind) | {kind: [found.label]},
    }
    return result if found.score is None else result | {"score": found.score}


def _shape(found: LabelledObject, kind: str) -> dict[str, Any]:
    if kind == "polygonlabels":
        return {"points": [[_percent(x), _percent(y)] for x, y in found.outline[0]], "closed": True}
    x0, y0, x1, y1 = found.box
    sides = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    return {key: _percent(value) for key, value in sides.items()} | {"rotation": 0}


def _percent(value: float) -> float:
    return round(value * 100, _PERCENT)
