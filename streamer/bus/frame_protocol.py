"""What capture and its consumers say to each other: one JSON object per message, checked when it arrives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from streamer.core.errors import WireError
from streamer.events.schema import FrameCounts
from streamer.types import FrameId, FrameOutcome, When

MAX_MESSAGE_BYTES = 16384
"""Bytes of a message; who sends more is disconnected by ZeroMQ."""
MAX_WAIT_S = 3600.0

Number = Annotated[int, Field(ge=0, lt=1 << 53)]
Owner = Annotated[str, StringConstraints(pattern=r"^[a-z]+-\d{1,10}-[0-9a-f]{8}$", max_length=64)]
"""A consumer process: its role, process id and a random part. Never used again."""
BufferName = Annotated[str, StringConstraints(pattern=r"^[a-z]+-\d{1,10}-[0-9a-f]{8}-\d{1,4}\.buf$", max_length=64)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    v: Literal[1] = 1
    id: Number


class _Request(_Message):
    owner: Owner


class MotionGate(BaseModel):
    """A task that waits for something to happen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    task: Annotated[str, StringConstraints(max_length=64)]
    """Its name."""
    when: When
    area: Annotated[str, StringConstraints(max_length=64)]
    """The zone that it looks at, or nothing for the whole picture."""
    since: FrameId | None
    """The frame that its last answer was about; None: it has none, and anything has happened since."""


class FrameRequest(BaseModel):
    """Which frames: newer than `after` and, where one of the others is given, one of them reached.

    Media times and numbers start again with every connection, so a frame of a later epoch than `after` is wanted
    whatever they say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    after: FrameId | None = None
    at_pts: float | None = None
    at_seq: int | None = None
    interval: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 0.0
    """Seconds that who asks lets pass from frame to frame; 0: any frame may be wanted. Decides what is decoded."""
    max_age: Annotated[float, Field(gt=0)] | None = None
    """Seconds; an older frame is not wanted: of a slow camera the next one is."""
    motion_gates: tuple[MotionGate, ...] = ()
    """The answer names those for which something has happened."""
    on_trigger: bool = False
    """Reached as well once something has happened for one of the gates; without `at_…`: not before."""

    def matches(self, frame: FrameId, pts: float | None, happened: bool = False) -> bool:
        """A frame without media time matches any `at_pts`: too much work rather than none."""
        if self.after is not None and frame <= self.after:
            return False
        if self.at_pts is None and self.at_seq is None and not self.on_trigger:
            return True
        if self.after is not None and frame.epoch > self.after.epoch:
            return True
        reached = self.at_pts is not None and (pts is None or pts >= self.at_pts - 1e-6)
        return reached or (self.on_trigger and happened) or (self.at_seq is not None and frame.seq >= self.at_seq)


class Ping(_Request):
    """Who is there? Answered after everything that was asked before it."""

    op: Literal["ping"] = "ping"


class Fetch(_Request):
    """Write the wanted frame into this buffer, or say now that there is none."""

    op: Literal["fetch"] = "fetch"
    request: FrameRequest
    buffer: BufferName


class Wait(_Request):
    """Say when there is a wanted frame, but not later than after `timeout` seconds."""

    op: Literal["wait"] = "wait"
    request: FrameRequest
    timeout: Annotated[float, Field(ge=0, le=MAX_WAIT_S)]


class Settle(_Request):
    """What became of a fetched frame. `generation` says which capture process it came from. Not answered."""

    op: Literal["settle"] = "settle"
    generation: str
    frame: FrameId
    outcome: FrameOutcome


class FrameDescriptor(BaseModel):
    """A frame that was written into the buffer named in the request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: FrameId
    pts: float | None
    captured_at: float
    age: float
    """Seconds since it was captured, when this was sent."""
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    triggered: frozenset[str] = frozenset()
    """The tasks of the request's gates for which something has happened."""


class FrameResponse(_Message):
    """To any request but Settle."""

    generation: str
    ready: bool
    """A wanted frame is there, to be fetched."""
    ended: bool
    """Nothing that was asked for will ever come."""
    pong: bool = False
    counts: FrameCounts | None = None
    """Of a pong: what became of the stream's frames so far."""
    newest: FrameId | None
    newest_age: float | None
    """Seconds since the newest frame was captured, when this was sent."""
    frame: FrameDescriptor | None = None


ClientMessage = Ping | Fetch | Wait | Settle

_requests: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="op")])


def encode(message: _Message) -> bytes:
    return message.model_dump_json().encode()


def decode_message(data: bytes) -> ClientMessage:
    """Raises WireError."""
    try:
        return _requests.validate_json(data)
    except ValidationError as error:
        raise WireError(_first(error)) from None


def decode_response(data: bytes) -> FrameResponse:
    """Raises WireError."""
    try:
        return FrameResponse.model_validate_json(data)
    except ValidationError as error:
        raise WireError(_first(error)) from None


def _first(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, details['loc']))}: {details['msg']}"
