"""The data of `streamer.result.v1`: the result of a task on a frame."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from streamer.events.marks import mark_unsupported
from streamer.events.part import Part
from streamer.types import Outcome, Point, Refusal


class FrameInfo(Part):
    """The frame that the task ran on."""

    seq: int
    """Number of the decoded frame, from 0 in each epoch."""
    pts: float | None
    """Media time in seconds since the epoch's first frame."""
    width: int
    height: int


class Snapshot(Part):
    """The JPEG file of a frame, see docs/rules.md. It is found by the id of the result's event."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the file, in hexadecimal digits."""
    bytes: int
    """Size of the file."""
    width: int
    height: int
    """Size of the picture, which may be smaller than the frame."""


class EventBox(Part):
    label: str
    score: float | None
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 as fractions of the full frame."""
    pixels: tuple[int, int, int, int]
    """The same in pixels of the full frame."""
    track: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Number of the object, the same in later events of this task, from its second detection on; never reused."""


class EventPoints(Part):
    """A polygon, or the four corners around a piece of text, clockwise from the text's top left."""

    label: str
    score: float | None
    points: tuple[Point, ...]
    """Corners as fractions of the full frame."""
    pixels: tuple[tuple[int, int], ...]
    """The same in pixels of the full frame."""


class EventSpan(Part):
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


class ResultBody(Part):
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


class Timing(Part):
    waited_ms: float | None
    """From capture to the start of its batch; null when the job never reached the model."""
    inference_ms: float
    """Time in the engine, from the start of its batch to its answer."""
    age_ms: float | None
    """From capture until the event was accepted for publication; never recomputed. Null only before that."""
    draft: tuple[int, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Tokens of the previous answer that were tried as a draft, and how many were accepted; absent without a draft."""


class EventParent(Part):
    """The answer, and the shape in it, that a follow-up is about. The shape's box is `region`."""

    id: str
    """Id of the answer's event."""
    label: str | None
    """Label of the shape; null if the follow-up is about a text."""
    track: int | None
    """Number of the object, if the shape has one."""


LeftOut = Literal["small", "most", "overload", "unusable"]
"""Reason why a shape, or a text, of an answer gets no follow-up."""


class EventFollowUps(Part):
    """Follow-ups of one answer; each gets an event of its own."""

    asked: int
    left_out: dict[LeftOut, int]
    """Shapes without a follow-up by reason: a side under 8 pixels (`small`), more than `most`, too little device time
    (`overload`), a text that the task cannot take (`unusable`)."""


class EventStatement(Part):
    """Things that a caption names, or a relation of two."""

    what: str
    """The thing: its colours, then a noun in the singular."""
    number: int | None
    """Number of these things; null: several."""
    relation: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Set for a relation, such as `above`: of `what` to `to`."""
    to: str | None = Field(default=None, exclude_if=lambda value: value is None)


class EventChanges(Part):
    """Content that a task with `changes` has reported. All that appeared and has not disappeared, so also things that
    the newest caption leaves out once."""

    content: tuple[EventStatement, ...]
    """All statements, with the changes of this event."""
    appeared: tuple[EventStatement, ...]
    """Statements that are new since the result before; empty in the first result and with `unchanged`."""
    disappeared: tuple[EventStatement, ...]


class EventRefused(Part):
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


class EventConfirmation(Part):
    """The outcome of a second look (`confirm`)."""

    confirmed: int
    """Shapes in the result."""
    refused: tuple[EventRefused, ...]
    """Shapes that are not in the result."""


class ResultData(Part):
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
    lease: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Epoch of the decision with which the agent got the stream, if it was told to run it."""
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
    snapshot: Snapshot | None = Field(default=None, exclude_if=lambda value: value is None)
    """The frame as a file; absent without one."""
    timing: Timing
    model: str
    quality: str
    error: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Reason why there is no answer; absent without an error."""
    since: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """With `unchanged`: the time of the frame whose answer still holds."""
