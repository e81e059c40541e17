"""Reads events of the ledger as far as the rules look at them.

Emit has checked each event before it stored it. Here only the parts that a condition can look at are decoded, which
needs a third of the time.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from streamer.core.boxes import Rect
from streamer.core.errors import WireError
from streamer.core.ipc import decode_json
from streamer.events.part import unix_time
from streamer.events.result_data import Snapshot
from streamer.events.schema import StatusEvent
from streamer.rules.observation import ANSWERED, Moment, Observation, Shape
from streamer.types import Point

_FINITE = with_config(ConfigDict(allow_inf_nan=False))


@_FINITE
class _Box(TypedDict):
    label: str
    score: float | None
    box: Rect
    track: NotRequired[int | None]


@_FINITE
class _Outline(TypedDict):
    label: str
    score: float | None
    points: list[Point]


@_FINITE
class _Answer(TypedDict):
    text: str | None
    score: float | None
    boxes: list[_Box]
    polygons: list[_Outline]
    quads: list[_Outline]


@_FINITE
class _Frame(TypedDict):
    seq: int
    pts: float | None


class _Parent(TypedDict):
    id: str


class _Data(TypedDict):
    stream: str
    epoch: int
    name: str
    outcome: str
    frame: _Frame
    result: _Answer | None
    model: str
    parent: NotRequired[_Parent | None]
    snapshot: NotRequired[Snapshot | None]


class _Result(TypedDict):
    type: Literal["streamer.result.v1"]
    id: str
    time: str
    data: _Data


class _Incident(TypedDict):
    type: Literal["streamer.incident.v1"]


_EVENTS: TypeAdapter[_Result | StatusEvent | _Incident] = TypeAdapter(
    Annotated[_Result | StatusEvent | _Incident, Field(discriminator="type")]
)


def read(body: bytes) -> Observation | StatusEvent | None:
    """Return a result as an observation, a status as it is, and None for an incident. Raises WireError for others."""
    event = decode_json(_EVENTS, body)
    if isinstance(event, StatusEvent):
        return event
    return None if event["type"] == "streamer.incident.v1" else _observation(event)


def _observation(event: _Result) -> Observation:
    data, frame = event["data"], event["data"]["frame"]
    try:
        moment = Moment(data["epoch"], frame["pts"], unix_time(event["time"]))
    except (ValueError, OverflowError) as error:
        raise WireError(f"`time` is wrong: {error}") from None
    head = event["id"], data["stream"], data["name"], moment, frame["seq"]
    result = data["result"]
    if result is None or data["outcome"] not in ANSWERED:
        return Observation(*head, "unchanged" if data["outcome"] == "unchanged" else "none", data["model"])
    objects = [Shape(box["label"], box["score"], box["box"], box.get("track")) for box in result["boxes"]]
    if areas := result["polygons"]:
        objects += _outlined(areas)
    by_label: dict[str, list[Shape]] = {}
    for shape in objects:
        label = shape.label.casefold()
        if label in by_label:
            by_label[label].append(shape)
        else:
            by_label[label] = [shape]
    texts = _outlined(quads) if (quads := result["quads"]) else ()
    parent = data.get("parent")
    return Observation(
        *head, "answer", data["model"], objects, by_label, texts, result["text"], result["score"],
        None if parent is None else parent["id"], data.get("snapshot"),
    )  # fmt: skip


def _outlined(outlines: list[_Outline]) -> list[Shape]:
    return [Shape(one["label"], one["score"], _bounds(one["points"])) for one in outlines]


def _bounds(points: list[Point]) -> Rect:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys), max(xs), max(ys)) if points else (0.0, 0.0, 0.0, 0.0)
