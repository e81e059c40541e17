"""Messages between a capture process and its consumers (infer, view, web): one validated JSON object per message.

consumer -> capture   ClientMessage: Ping, Fetch, Wait, Release (each answered with one FrameResponse), Settle (not
                      answered)
capture -> consumer   FrameResponse
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from streamer.core.ipc import decode_json
from streamer.events.schema import FrameCounts
from streamer.types import FrameId, FrameOutcome, When

MAX_MESSAGE_BYTES = 16384
"""Bytes per message. ZeroMQ disconnects a peer that sends a larger one."""
MAX_WAIT_S = 3600.0
"""Longest `Wait.timeout` and `FrameRequest.interval`, in seconds."""

Number = Annotated[int, Field(ge=0, lt=1 << 53)]
Role = Literal["infer", "view", "web", "remote"]
"""Kind of consumer; `remote` fetches for other hosts. Only the frames of `infer` are counted, and only one `infer`
process serves a stream at a time."""
Owner = Annotated[str, StringConstraints(pattern=r"^[a-z]+-\d{1,10}-[0-9a-f]{8}$", max_length=64)]
"""Unique id of a consumer process: role, process id and a random part. Never reused."""
BufferName = Annotated[str, StringConstraints(pattern=r"^[a-z]+-\d{1,10}-[0-9a-f]{8}-\d{1,9}\.buf$", max_length=64)]
Area = Annotated[str, StringConstraints(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MotionGate(_Strict):
    """A task that needs a frame only after motion or a change."""

    task: Annotated[str, StringConstraints(max_length=64)]
    """Task name."""
    when: When
    area: Area
    """Zone that is watched; empty for the whole picture."""
    since: FrameId | None
    """Frame of the task's last result. None: there is none, so the gate is open."""


class FrameRequest(_Strict):
    """The frame a consumer needs: newer than `after`, and matching at least one of the other conditions, if any.

    Media times and frame numbers restart with each connection, so a frame of a later epoch than `after` matches
    `at_pts` and `at_seq` whatever their value.
    """

    after: FrameId | None = None
    at_pts: float | None = None
    """Media time in seconds: this or later."""
    at_seq: int | None = None
    """Frame number: this or later."""
    interval: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 0.0
    """Seconds between the frames this consumer needs, 0 for every frame. Capture decodes accordingly."""
    max_age: Annotated[float, Field(gt=0)] | None = None
    """Seconds since capture. Older frames do not match, so a slow camera's next frame is awaited."""
    motion_gates: tuple[MotionGate, ...] = ()
    """The response names the gates that are open."""
    on_trigger: bool = False
    """Condition: at least one of `motion_gates` is open."""

    def matches(self, frame: FrameId, pts: float | None, triggered: bool = False) -> bool:
        """Return True when the frame is needed; `triggered`: a motion gate is open. Does not check `max_age`.

        A frame without media time matches any `at_pts`: extra work is better than a task that never runs.
        """
        if self.after is not None and frame <= self.after:
            return False
        if self.at_pts is None and self.at_seq is None and not self.on_trigger:
            return True
        if self.after is not None and frame.epoch > self.after.epoch:
            return True
        reached = self.at_pts is not None and (pts is None or pts >= self.at_pts - 1e-6)
        return reached or (self.on_trigger and triggered) or (self.at_seq is not None and frame.seq >= self.at_seq)


class _Message(_Strict):
    v: Literal[1] = 1
    id: Number
    """Request number, unique per consumer. A response repeats the number of its request."""


class _ClientMessage(_Message):
    owner: Owner
    role: Role


class Ping(_ClientMessage):
    """Ask for the stream's state. Answered after every earlier message of the same consumer."""

    op: Literal["ping"] = "ping"


class Encoding(_Strict):
    """The form of an encoded picture."""

    quality: Annotated[int, Field(ge=1, le=100)] | None
    """Highest quality of a JPEG. None: any."""


class Fetch(_ClientMessage):
    """Ask for a matching frame in `buffer`. Answered at once, without `frame` when none matches now."""

    op: Literal["fetch"] = "fetch"
    request: FrameRequest
    buffer: BufferName
    next_need: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] | None = None
    """Seconds until this consumer needs the frame after this one. None: `request.interval`."""
    encoding: Encoding | None = None
    """Form in which the camera's own encoding is taken, instead of pixels. None: pixels only, as `infer` needs them."""


class Wait(_ClientMessage):
    """Ask for a response when a frame matches, or after `timeout` seconds.

    A later Wait or Fetch of the same consumer replaces it; it is answered `ready=False` then.
    """

    op: Literal["wait"] = "wait"
    request: FrameRequest
    timeout: Annotated[float, Field(ge=0, le=MAX_WAIT_S)]


class Settle(_ClientMessage):
    """Report the outcome of a fetched frame. Not answered."""

    op: Literal["settle"] = "settle"
    generation: str
    """Capture process that delivered the frame, as in its FrameResponse."""
    frame: FrameId
    outcome: FrameOutcome


class Release(_ClientMessage):
    """Give the stream up: the consumer holds no frame and sends no message after this one. Answered like a Ping."""

    op: Literal["release"] = "release"


ClientMessage = Ping | Fetch | Wait | Settle | Release
"""Any message that a consumer sends to capture; `op` tells the kind."""


class FrameDescriptor(_Strict):
    """Capture's description of the frame it wrote into the buffer of a Fetch. Times as in `types.Frame`."""

    id: FrameId
    pts: float | None
    captured_at: float
    age: float
    """Seconds from capture to this message. Monotonic times are not sent."""
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    triggered: frozenset[str] = frozenset()
    """Names of the tasks whose motion gate is open."""
    encoded_bytes: Annotated[int, Field(gt=0)] | None = None
    """Length of the encoded picture in the buffer. None: it holds pixels."""


class FrameResponse(_Message):
    """Capture's answer to a Ping, Fetch, Wait or Release."""

    generation: str
    """Random id of this capture process. A new value means that the one before died."""
    ready: bool = False
    """A matching frame exists: it is in the buffer (Fetch), or can be fetched (Wait)."""
    ended: bool = False
    """The source ended; no frame will ever match the request."""
    pong: bool = False
    """This answers a Ping or Release."""
    counts: FrameCounts | None = None
    """Frame accounting of the stream; with a pong only."""
    newest: FrameId | None
    """Newest decoded frame of this process, of any connection."""
    newest_age: float | None
    """Seconds from the capture of `newest` to this message."""
    frame: FrameDescriptor | None = None
    """The frame in the buffer of a Fetch."""
    buffer_lost: bool = False
    """The buffer of a Fetch was deleted or cut. The consumer must make a new one."""


_client_messages: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="op")])
_responses = TypeAdapter(FrameResponse)


def encode(message: ClientMessage | FrameResponse) -> bytes:
    return message.model_dump_json().encode()


def decode_message(data: bytes) -> ClientMessage:
    """Parse a consumer's message. Raises WireError."""
    return decode_json(_client_messages, data)


def decode_response(parts: list[bytes]) -> FrameResponse:
    """Parse capture's response. Raises WireError."""
    return decode_json(_responses, b"".join(parts))
