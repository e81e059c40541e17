"""Messages between a host that needs frames and the host that captures them, over CURVE.

asking host -> serving host   Ask, one JSON object
serving host -> asking host   Answer, one JSON object, and the encoded picture if `frame` is set

An asking host has one request at a time for each stream. Clocks are never compared: `age` and `held` are durations.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from streamer.core.ipc import decode_json
from streamer.core.picture_limits import MAX_SIDE
from streamer.types import FrameId

MAX_ASK_BYTES = 4096
MAX_PICTURE_BYTES = 32 << 20
"""Largest encoded picture. An 8K picture of high quality has about 20 MB."""
NEXT_S = 0.02
"""Longest wait for the next frame of the camera if there is another one already, see `Ask.max_age`."""
MAX_HOLD_S = 1.0
"""Longest time for which the serving host holds a request while it has no new frame."""

_Number = Annotated[int, Field(ge=0, lt=1 << 53)]
_Seconds = Annotated[float, Field(ge=0, le=1e9)]
_Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Ask(_Strict):
    """A request for the newest frame of a stream, or only for a sign of life."""

    v: Literal[1] = 1
    id: _Number
    stream: Annotated[str, StringConstraints(max_length=64)]
    wants_frame: bool
    """False: answer at once, without a frame."""
    after: FrameId | None = None
    """Frame that the asking host has. A newer one is sent as soon as there is one."""
    max_age: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Seconds since capture. An older frame is sent only if there is no newer one after `NEXT_S`."""
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """Quality of the JPEG. None: lossless, as PNG."""


class RemoteFrame(_Strict):
    """The frame whose encoded picture follows."""

    id: FrameId
    pts: float | None
    age: _Seconds
    """Seconds from capture until this message was sent."""
    width: _Side
    height: _Side


class Answer(_Strict):
    """The answer to an Ask."""

    v: Literal[1] = 1
    id: _Number
    held: _Seconds
    """Seconds from the arrival of the Ask until this message was sent."""
    frame: RemoteFrame | None = None
    error: Annotated[str, StringConstraints(max_length=200)] | None = None
    """Reason why there are no frames of this stream."""


_asks, _answers = TypeAdapter(Ask), TypeAdapter(Answer)


def encode(message: Ask | Answer) -> bytes:
    return message.model_dump_json().encode()


def decode_ask(data: bytes) -> Ask:
    """Parse a request. Raises WireError."""
    return decode_json(_asks, data)


def decode_answer(data: bytes) -> Answer:
    """Parse an answer without its picture. Raises WireError."""
    return decode_json(_answers, data)
