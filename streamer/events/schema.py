"""The events users see: CloudEvents 1.0 in JSON, built from results and status changes, and read back typed.

One type for what a task found (`streamer.result.v1`), one for what became of a part of the program
(`streamer.status.v1`). The `id` names the question, not the delivery: the same frame and task give it again.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from streamer.core.errors import WireError
from streamer.core.redact import redact
from streamer.types import Answer, Box, Outcome, Point, Polygon, Priority, Quad, Result, TaskParams

MAX_TEXT = 65_536
"""Characters kept of any one text a model or a library gave."""
_UNSAFE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, lone surrogates, foreign line ends


class _Part(BaseModel):
    # Unknown keys are let through: a reader must not break on a newer agent's events.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class FrameInfo(_Part):
    """The frame that was asked about."""

    seq: int
    """Counts decoded frames from 0 in each epoch."""
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
    """The same for the same object in later events of this task, once it was seen twice; never used again."""


class EventPoints(_Part):
    """A polygon, or the four corners around a piece of text, clockwise from the text's top left."""

    label: str
    score: float | None
    points: tuple[Point, ...]
    """Corners as fractions of the full frame."""
    pixels: tuple[tuple[int, int], ...]
    """The same in pixels of the full frame."""


class ResultBody(_Part):
    """What the model said. A task fills the fields of its kind and leaves the others empty."""

    text: str | None
    score: float | None
    polygons: tuple[EventPoints, ...]
    quads: tuple[EventPoints, ...]
    boxes: tuple[EventBox, ...]


class Timing(_Part):
    waited_ms: float | None
    """From capture to the start of its batch; null when the job never reached the model."""
    inference_ms: float
    """In the engine, from the start of its batch to its answer."""
    age_ms: float | None
    """From capture until the event was accepted for publication; never recomputed. Null only before that."""
    draft: tuple[int, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Tokens of the previous answer that were tried as a guess, and how many were right; left out where none was."""


class ResultData(_Part):
    stream: str
    epoch: int
    """Which connection: unix milliseconds at which it was opened."""
    name: str
    task: str
    outcome: Outcome
    """`ok`, `empty` (the model saw nothing); every other word means that there is no answer."""
    text: str | None
    """The task's own text, as configured."""
    region: tuple[float, float, float, float] | None
    zone: str | None
    frame: FrameInfo
    result: ResultBody | None
    """Null when there is no answer."""
    timing: Timing
    model: str
    quality: str
    error: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Why there is no answer; left out when nothing went wrong."""
    since: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of `unchanged`: the time of the frame whose answer still holds."""


class FrameCounts(_Part):
    """Every decoded frame is in exactly one place: captured = not_asked + done + all dropped + in_flight."""

    captured: int
    not_asked: int
    done: int
    dropped: dict[str, int]
    """By cause."""
    in_flight: int


class Lost(_Part):
    """Events that a sink will never get."""

    events: int
    sequences: dict[str, tuple[str, str]]
    """First and last sequence by source; empty where the events could not even be read."""


class StatusData(_Part):
    stream: str | None = None
    epoch: int | None = None
    state: str
    reason: str | None = None
    retry_in_s: float | None = None
    frames: FrameCounts | None = None
    sink: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The sink it is about, if it is about one."""
    worker: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The process it is about, if it is about one: `infer`, `capture:gate`."""
    stretch: dict[str, dict[Priority, float]] | None = Field(default=None, exclude_if=lambda value: value is None)
    """How many times longer intervals are than configured, by stream and priority; a class that is not named runs
    as configured."""
    output: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The output of video it is about, if it is about one."""
    task: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """The name of the task it is about, if it is about one."""
    asks: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a task that was changed: what it asks, such as `object_detection`."""
    lost: Lost | None = Field(default=None, exclude_if=lambda value: value is None)
    """What a sink has missed for good."""


class _Envelope(_Part):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    specversion: Literal["1.0"] = "1.0"
    type: str
    source: str
    """`/agents/<agent>`, `/agents/<agent>/streams/<stream>`, `/agents/<agent>/sinks/<sink>` or `…/outputs/<output>`."""
    id: str = Field(min_length=1)
    subject: str
    time: str
    """RFC 3339 in UTC with microseconds; of a result: when its frame was captured."""
    sequence: Annotated[str, Field(pattern=r"^(\d{16})?$")] = ""
    """Counts the events of one source from 1, without holes. Empty only before the event was accepted."""
    datacontenttype: Literal["application/json"] = "application/json"


class ResultEvent(_Envelope):
    """What one task found in one frame; `subject` is the task's name."""

    type: Literal["streamer.result.v1"] = "streamer.result.v1"
    data: ResultData


class StatusEvent(_Envelope):
    """A part of the program changed its state; `subject` is what it is and the state: `stream.down`."""

    type: Literal["streamer.status.v1"] = "streamer.status.v1"
    data: StatusData


Event = ResultEvent | StatusEvent
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of every event."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        **_ADAPTER.json_schema(mode="serialization"),
    }


def encode(event: Event) -> bytes:
    """One line of JSON in UTF-8, without a line end."""
    return _ADAPTER.dump_json(event)


def decode(body: bytes) -> Event:
    """The event in `body`. Raises WireError when it is none."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        raise WireError(f"not an event: {error.errors(include_url=False, include_input=False)[0]['msg']}") from None


def accepted(event: Event, age_s: float | None) -> Event:
    """`event` with its age at the moment of acceptance, in seconds; status events have none."""
    if isinstance(event, StatusEvent) or age_s is None:
        return event
    timing = event.data.timing.model_copy(update={"age_ms": round(age_s * 1000, 1)})
    return event.model_copy(update={"data": event.data.model_copy(update={"timing": timing})})


def numbered(event: Event, sequence: int) -> Event:
    """`event` as number `sequence` of its source."""
    return event.model_copy(update={"sequence": f"{sequence:016d}"})


def result_event(agent: str, result: Result, model: str) -> ResultEvent:
    """The event of one finished job. It has no sequence and no age until it is accepted by emit."""
    due, frame = result.job.due, result.job.frame
    height, width = frame.image.shape[:2]
    params: TaskParams = due.task.params
    text, region = params.prompt_text, params.prompt_region
    data = ResultData(
        stream=due.stream,
        epoch=frame.epoch,
        name=due.task.name,
        task=due.task.task,
        outcome=result.outcome,
        text=None if text is None else clean(text),
        region=None if region is None else (region.x0, region.y0, region.x1, region.y1),
        zone=None if due.task.zone is None else due.task.zone.name,
        frame=FrameInfo(
            seq=frame.seq, pts=None if frame.pts is None else round(frame.pts, 6), width=width, height=height
        ),
        result=_body(result.answer, width, height) if result.outcome in ("ok", "empty") else None,
        timing=Timing(
            waited_ms=_ms(result.started_mono - frame.captured_mono) if result.started_mono else None,
            inference_ms=_ms(result.inference_s),
            age_ms=None,
            draft=result.draft,
        ),
        model=model,
        quality=params.quality,
        error=None if result.error is None else clean(redact(result.error)),
        since=None if due.unchanged_since is None else _rfc3339(datetime.fromtimestamp(due.unchanged_since, UTC)),
    )
    return ResultEvent(
        source=f"/agents/{agent}/streams/{due.stream}",
        id=result_id(agent, due.stream, frame.epoch, frame.seq, due.task.name),
        subject=due.task.name,
        time=_rfc3339(datetime.fromtimestamp(frame.captured_at, UTC)),
        data=data,
    )


def result_id(agent: str, stream: str, epoch: int, seq: int, name: str) -> str:
    """The same for the same question, also after a crash and a second answer."""
    question = json.dumps([agent, stream, epoch, seq, name])
    return hashlib.sha256(question.encode()).hexdigest()[:32]


def status_event(
    agent: str,
    stream: str | None,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    frames: Mapping[str, Any] | FrameCounts | None = None,
    *,
    epoch: int | None = None,
) -> StatusEvent:
    """A stream's (subject `stream.<state>`) or, without one, the agent's (`agent.<state>`) change of state.

    `frames` holds the keys of FrameCounts.
    """
    source = f"/agents/{agent}/streams/{stream}" if stream else f"/agents/{agent}"
    counts = None if frames is None else FrameCounts.model_validate(frames)
    kind = "stream" if stream else "agent"
    return _status(source, kind, state, reason, retry_in_s, stream=stream, epoch=epoch, frames=counts)


def worker_event(
    agent: str,
    worker: str,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    stream: str | None = None,
) -> StatusEvent:
    """A child process's change of state, subject `worker.<state>`; `worker` is such as `infer` or `capture:gate`."""
    return _status(f"/agents/{agent}", "worker", state, reason, retry_in_s, stream=stream, worker=worker)


def canary_event(agent: str, seconds: float) -> StatusEvent:
    """In a quiet time: the model has answered a question of the program's own (`agent.canary`)."""
    return _status(f"/agents/{agent}", "agent", "canary", f"the model answers, in {seconds * 1000:.0f} ms")


def task_event(
    agent: str, stream: str, task: str, state: str,
    reason: str | None = None, retry_in_s: float | None = None, asks: str | None = None,
) -> StatusEvent:  # fmt: skip
    """A task was `added`, `removed`, `paused` or `resumed`, or is left out for killing infer: `quarantined`."""
    source = f"/agents/{agent}/streams/{stream}"
    return _status(source, "task", state, reason, retry_in_s, stream=stream, task=task, asks=asks)


def schedule_event(agent: str, stretch: Mapping[str, Mapping[Priority, float]], reason: str | None) -> StatusEvent:
    """Intervals are longer than configured by these factors (`schedule.stretched`), or are again as configured."""
    factors = {stream: dict(of_priority) for stream, of_priority in stretch.items()}
    return _status(f"/agents/{agent}", "schedule", "stretched" if stretch else "normal", reason, stretch=factors)


def sink_event(
    agent: str, sink: str, state: str,
    reason: str | None = None, retry_in_s: float | None = None, lost: Lost | None = None,
) -> StatusEvent:  # fmt: skip
    """A sink's change of state, subject `sink.<state>`."""
    return _status(f"/agents/{agent}/sinks/{sink}", "sink", state, reason, retry_in_s, sink=sink, lost=lost)


def ledger_event(agent: str, state: str, reason: str) -> StatusEvent:
    """What became of the ledger, subject `ledger.<state>`."""
    return _status(f"/agents/{agent}", "ledger", state, reason)


def output_event(
    agent: str, output: str, state: str, reason: str | None = None, retry_in_s: float | None = None
) -> StatusEvent:
    """A video output's change of state, subject `output.<state>`."""
    return _status(f"/agents/{agent}/outputs/{output}", "output", state, reason, retry_in_s, output=output)


def clean(text: str) -> str:
    """`text` without control characters (line feeds stay) and cut to MAX_TEXT characters: it is data, not format."""
    return "".join(c for c in text[:MAX_TEXT] if c == "\n" or unicodedata.category(c) not in _UNSAFE)


def _status(
    source: str, kind: str, state: str, reason: str | None = None, retry_in_s: float | None = None, **about: Any
) -> StatusEvent:
    """`about`: the fields of StatusData that say what it is about."""
    hidden = None if reason is None else clean(redact(reason))
    data = StatusData(state=state, reason=hidden, retry_in_s=_rounded(retry_in_s, 3), **about)
    now = _rfc3339(datetime.now(UTC))
    return StatusEvent(source=source, id=uuid.uuid4().hex, subject=f"{kind}.{state}", time=now, data=data)


def _body(answer: Answer, width: int, height: int) -> ResultBody:
    return ResultBody(
        text=None if answer.text is None else clean(answer.text),
        score=_rounded(answer.score, 4),
        polygons=_outlines(answer.polygons, width, height),
        quads=_outlines(answer.quads, width, height),
        boxes=tuple(_box(box, width, height) for box in answer.boxes),
    )


def _box(box: Box, width: int, height: int) -> EventBox:
    x0, y0, x1, y1 = (round(edge, 6) for edge in (box.x0, box.y0, box.x1, box.y1))
    pixels = (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))
    return EventBox(
        label=clean(box.label),
        score=_rounded(box.score, 4),
        box=(x0, y0, x1, y1),
        pixels=pixels,
        track=box.track,
    )


def _outlines(shapes: Iterable[Polygon | Quad], width: int, height: int) -> tuple[EventPoints, ...]:
    return tuple(
        EventPoints(
            label=clean(shape.label),
            score=_rounded(shape.score, 4),
            points=tuple((round(x, 6), round(y, 6)) for x, y in shape.points),
            pixels=tuple((round(x * width), round(y * height)) for x, y in shape.points),
        )
        for shape in shapes
    )


def _rounded(number: float | None, digits: int) -> float | None:
    # A half-precision model can score NaN, which JSON has no word for.
    return round(number, digits) if number is not None and isfinite(number) else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _rfc3339(when: datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")
