"""The event schema: CloudEvents 1.0 in JSON, and typed models to encode and decode them.

`streamer.result.v1` carries the result of a task, `streamer.status.v1` a change of state, `streamer.incident.v1` a
start, update or end of what a rule found. The `id` identifies the question, not the delivery: the same frame and task
give the same id again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from streamer.core.errors import WireError
from streamer.events.command_data import CommandData
from streamer.events.incident_data import IncidentData
from streamer.events.part import Part, Time
from streamer.events.result_data import ResultData
from streamer.types import Priority


class FrameCounts(Part):
    """Every decoded frame is counted once: captured = not_asked + done + all dropped + in_flight."""

    captured: int
    not_asked: int
    done: int
    dropped: dict[str, int]
    """Frames by cause."""
    in_flight: int


class Lost(Part):
    """Events that a sink will never receive."""

    events: int
    sequences: dict[str, tuple[str, str]]
    """First and last sequence by source; empty when the events could not be read."""


class StatusData(Part):
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
    peer: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the other host, in events about one."""
    asks: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The task's kind, such as `object_detection`, when a task was changed."""
    keys: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Keys of a task that was added, as in a config."""
    lost: Lost | None = Field(default=None, exclude_if=lambda value: value is None)
    """Events that the sink has missed for good."""
    lease: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Epoch of the decision with which the agent got the stream, if it was told to run it."""
    streams: tuple[str, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Streams that the agent runs, when they have changed."""
    rule: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name of the rule, in events about the word of its `state`."""
    word: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Word of the `state` of a rule; absent if there is no answer."""
    model: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Name and hash of the model, in events about it: `yard@5f0c2a9be417`."""
    command: CommandData | None = Field(default=None, exclude_if=lambda value: value is None)
    """Content of a command to the rules."""


class _Envelope(Part):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    specversion: Literal["1.0"] = "1.0"
    type: str
    source: str
    """`/agents/<agent>`, `/agents/<agent>/streams/<stream>`, `/agents/<agent>/sinks/<sink>`, `…/outputs/<output>` or
    `…/rules`."""
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
    time: Time  # notifications and the page show it
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
