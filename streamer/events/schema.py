"""The event schema: CloudEvents 1.0 in JSON, and typed models to encode and decode them.

`streamer.result.v1` carries the result of a task, `streamer.status.v1` a change of state, `streamer.incident.v1` a
start, update or end of what a rule found. The `id` identifies the question, not the delivery: the same frame and task
give the same id again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamer.core.errors import WireError
from streamer.events.marks import mark_unsupported
from streamer.types import Outcome, Point, Priority, Refusal


class _Part(BaseModel):
    # Unknown keys are ignored: a reader must accept events of a newer agent.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class FrameInfo(_Part):
    """The frame that the task ran on."""

    seq: int
    """Number of the decoded frame, from 0 in each epoch."""
    pts: float | None
    """Media time in seconds since the epoch's first frame."""
    width: int
    height: int


class EventBox(_Part):
    label: str
    score: float | None
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 as fractions of the full frame."""
    pixels: tuple[int, int, int, int]
    """The same in pixels of the full frame."""
    track: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Number of the object, the same in later events of this task, from its second detection on; never reused."""


class EventPoints(_Part):
    """A polygon, or the four corners around a piece of text, clockwise from the text's top left."""

    label: str
    score: float | None
    points: tuple[Point, ...]
    """Corners as fractions of the full frame."""
    pixels: tuple[tuple[int, int], ...]
    """The same in pixels of the full frame."""


class EventSpan(_Part):
    """A phrase of a grounded caption."""

    start: int
    end: int
    """Its place in `text`, in characters (Unicode code points); `end` is the character after it."""
    phrase: str
    score: float | None
    """Agreement of the picture with the phrase, 0 to 1."""
    supported: bool
    """False: the picture does not show what the phrase names, or another number of it."""
    boxes: tuple[EventBox, ...]
    """Places that show it."""


class ResultBody(_Part):
    """The model's answer. A task fills the fields of its kind and leaves the others empty."""

    text: str | None
    score: float | None
    polygons: tuple[EventPoints, ...]
    quads: tuple[EventPoints, ...]
    boxes: tuple[EventBox, ...]
    spans: tuple[EventSpan, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Phrases of `text` that name things, in their order; absent unless the task is a grounded caption."""

    @property
    def marked_text(self) -> str | None:
        """The text for people: ` (?)` follows each phrase that is not supported."""
        ends = [span.end for span in self.spans if not span.supported]
        return None if self.text is None else mark_unsupported(self.text, ends)


class Timing(_Part):
    waited_ms: float | None
    """From capture to the start of its batch; null when the job never reached the model."""
    inference_ms: float
    """Time in the engine, from the start of its batch to its answer."""
    age_ms: float | None
    """From capture until the event was accepted for publication; never recomputed. Null only before that."""
    draft: tuple[int, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Tokens of the previous answer that were tried as a draft, and how many were accepted; absent without a draft."""


class EventParent(_Part):
    """The answer, and the shape in it, that a follow-up is about. The shape's box is `region`."""

    id: str
    """Id of the answer's event."""
    label: str | None
    """Label of the shape; null if the follow-up is about a text."""
    track: int | None
    """Number of the object, if the shape has one."""


LeftOut = Literal["small", "most", "overload", "unusable"]
"""Reason why a shape, or a text, of an answer gets no follow-up."""


class EventFollowUps(_Part):
    """Follow-ups of one answer; each gets an event of its own."""

    asked: int
    left_out: dict[LeftOut, int]
    """Shapes without a follow-up by reason: a side under 8 pixels (`small`), more than `most`, too little device time
    (`overload`), a text that the task cannot take (`unusable`)."""


class EventStatement(_Part):
    """Things that a caption names, or a relation of two."""

    what: str
    """The thing: its colours, then a noun in the singular."""
    number: int | None
    """Number of these things; null: several."""
    relation: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set for a relation, such as `above`: of `what` to `to`."""
    to: str | None = Field(default=None, exclude_if=lambda value: value is None)


class EventChanges(_Part):
    """Content that a task with `changes` has reported. All that appeared and has not disappeared, so also things that
    the newest caption leaves out once."""

    content: tuple[EventStatement, ...]
    """All statements, with the changes of this event."""
    appeared: tuple[EventStatement, ...]
    """Statements that are new since the result before; empty in the first result and with `unchanged`."""
    disappeared: tuple[EventStatement, ...]


class EventRefused(_Part):
    """A shape that the second look has removed from the answer."""

    label: str
    score: float | None
    """Score of the shape."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 as fractions of the full frame."""
    pixels: tuple[int, int, int, int]
    """The same in pixels of the full frame."""
    reason: Refusal
    """A side under 8 pixels (`small`), more shapes than are looked at (`most`), words of the model that name something
    else (`words`), a low score (`score`)."""
    said: str | None
    """The model's words about the shape; null if it was not asked."""
    support: float | None
    """Score of the second look; null if the model was not asked."""


class EventConfirmation(_Part):
    """The outcome of a second look (`confirm`)."""

    confirmed: int
    """Shapes in the result."""
    refused: tuple[EventRefused, ...]
    """Shapes that are not in the result."""


class ResultData(_Part):
    stream: str
    epoch: int
    """Unix milliseconds at which the connection to the source was opened."""
    name: str
    task: str
    outcome: Outcome
    """`ok`, or `empty` (the model found nothing); every other value means that there is no answer."""
    text: str | None
    """The task's own text, as configured."""
    region: tuple[float, float, float, float] | None
    zone: str | None
    crop: tuple[int, int, int, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `crop: native`, the part of the frame that the model saw: left, top, right, bottom in pixels. Absent if that
    was the whole frame or the whole zone."""
    frame: FrameInfo
    result: ResultBody | None
    """Null when there is no answer."""
    near: int = Field(default=0, exclude_if=lambda value: not value)
    """Locations in the result that differ from the most probable place by a thousandth of the picture, because they
    were taken from the previous answer (`drafts: near`); absent when there are none."""
    parent: EventParent | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set if the task is a follow-up (`then`)."""
    follow_ups: EventFollowUps | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set if the task has follow-ups and this is an answer."""
    changes: EventChanges | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set if the task has `changes` and this is an answer, or the report that the last one still holds."""
    confirmation: EventConfirmation | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set if the task has `confirm` and this is an answer."""
    timing: Timing
    model: str
    quality: str
    error: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Reason why there is no answer; absent without an error."""
    since: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `unchanged`: the time of the frame whose answer still holds."""


class FrameCounts(_Part):
    """Every decoded frame is counted once: captured = not_asked + done + all dropped + in_flight."""

    captured: int
    not_asked: int
    done: int
    dropped: dict[str, int]
    """Frames by cause."""
    in_flight: int


class Lost(_Part):
    """Events that a sink will never receive."""

    events: int
    sequences: dict[str, tuple[str, str]]
    """First and last sequence by source; empty when the events could not be read."""


class StatusData(_Part):
    stream: str | None = None
    epoch: int | None = None
    state: str
    reason: str | None = None
    retry_in_s: float | None = None
    frames: FrameCounts | None = None
    sink: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the sink, in events about a sink."""
    worker: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Process, in events about a process: `infer`, `capture:gate`."""
    stretch: dict[str, dict[Priority, float]] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Factor by which intervals are longer than configured, by stream and priority; a priority that is absent runs as
    configured."""
    follow_up_share: float = Field(default=1.0, exclude_if=lambda value: value == 1)
    """Part of the follow-ups (`then`) that runs under overload; absent if all do."""
    output: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the video output, in events about an output."""
    task: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the task, in events about a task."""
    asks: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The task's kind, such as `object_detection`, when a task was changed."""
    lost: Lost | None = Field(default=None, exclude_if=lambda value: value is None)
    """Events that the sink has missed for good."""


class IncidentFrame(_Part):
    """The frame of an answer that made a rule's condition true, and the object in it with the best score."""

    event: str
    """Id of the answer's event."""
    epoch: int | None
    seq: int | None
    """Null if the evidence is no frame but the state of a stream."""
    label: str | None
    score: float | None
    box: tuple[float, float, float, float] | None
    """x0, y0, x1, y1 as fractions of the full frame."""


class Reason(_Part):
    """A part of a rule's condition that was true."""

    condition: str
    value: float | None
    """Measured value: a number of objects, seconds, or null."""
    threshold: str | None
    """Comparison that the value met."""
    score: float | None
    min_score: float | None
    clear_score: float | None
    model: str | None
    event: str | None
    """Id of the answer's event."""


class IncidentData(_Part):
    stream: str
    rule: str
    rule_hash: str
    """Hash of the rule's definition."""
    incident: str
    """Id that start, updates and end of one incident share."""
    state: Literal["start", "update", "end"]
    number: int
    """Number of the event in its incident, from 0."""
    severity: Literal["info", "low", "medium", "high", "critical"]
    text: str
    """Text for people, from the rule's `say`."""
    reason: str | None
    """Cause of an update or an end."""
    started: str
    """Time of the start."""
    seconds: float
    """Time since the start, in seconds."""
    count: int
    """Largest number of objects at once so far."""
    answers: int
    """Number of answers so far for which the condition was true."""
    best: IncidentFrame
    """The best frame so far, by score."""
    evidence: tuple[str, ...]
    """Ids of the answers' events since the incident's last event, at most 1000."""
    why: tuple[Reason, ...]
    """The parts of the condition that were true, when it was true last."""


class _Envelope(_Part):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    specversion: Literal["1.0"] = "1.0"
    type: str
    source: str
    """`/agents/<agent>`, `/agents/<agent>/streams/<stream>`, `/agents/<agent>/sinks/<sink>` or `…/outputs/<output>`."""
    id: str = Field(min_length=1)
    subject: str
    time: str
    """RFC 3339 in UTC with microseconds; for a result the time at which its frame was captured."""
    sequence: Annotated[str, Field(pattern=r"^(\d{16})?$")] = ""
    """Number of the event within its source, from 1 without holes. Empty only before the event was accepted."""
    datacontenttype: Literal["application/json"] = "application/json"


class ResultEvent(_Envelope):
    """The result of one task on one frame; `subject` is the task's name."""

    type: Literal["streamer.result.v1"] = "streamer.result.v1"
    data: ResultData


class StatusEvent(_Envelope):
    """A change of state of a part of the program; `subject` names the part and the state: `stream.down`."""

    type: Literal["streamer.status.v1"] = "streamer.status.v1"
    data: StatusData


class IncidentEvent(_Envelope):
    """A start, update or end of an incident; `subject` is `incident.` and the name of the rule."""

    type: Literal["streamer.incident.v1"] = "streamer.incident.v1"
    data: IncidentData


Event = ResultEvent | StatusEvent | IncidentEvent
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of events."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        **_ADAPTER.json_schema(mode="serialization"),
    }


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON in UTF-8, without a line end."""
    return _ADAPTER.dump_json(event)


def decode(body: bytes) -> Event:
    """Return the event in `body`. Raises WireError when it is not an event."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        place = ".".join(
            map(str, error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"])
        )
        raise WireError(f"not an event: `{place}` is missing or wrong" if place else "not an event: not JSON") from None


def accepted(event: Event, age_s: float | None) -> Event:
    """Return `event` with its age at acceptance, given in seconds. Only results have an age."""
    if not isinstance(event, ResultEvent) or age_s is None:
        return event
    timing = event.data.timing.model_copy(update={"age_ms": round(age_s * 1000, 1)})
    return event.model_copy(update={"data": event.data.model_copy(update={"timing": timing})})


def numbered(event: Event, sequence: int) -> Event:
    """Return `event` with its sequence within its source."""
    return event.model_copy(update={"sequence": f"{sequence:016d}"})
