"""Builds events from results and changes of state. Credentials are removed from their texts here."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from streamer.core.redact import redact
from streamer.events.command_data import CommandData, CommandKind
from streamer.events.result_data import (
    EventBox,
    EventChanges,
    EventConfirmation,
    EventFollowUps,
    EventParent,
    EventPoints,
    EventRefused,
    EventSpan,
    FrameInfo,
    ResultBody,
    ResultData,
    Timing,
)
from streamer.events.schema import FrameCounts, Lost, ResultEvent, StatusData, StatusEvent
from streamer.types import Answer, Box, Confirmation, Polygon, Priority, Quad, Result, Span, TaskParams

MAX_TEXT = 65_536
"""Characters kept of one text from a model or a library."""
_UNSAFE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, lone surrogates, Unicode line ends


def result_event(
    agent: str,
    result: Result,
    model: str,
    follow_ups: EventFollowUps | None = None,
    changes: EventChanges | None = None,
    lease: int | None = None,
) -> ResultEvent:
    """Return the event of one finished job. Emit sets its sequence and age."""
    due, frame = result.job.due, result.job.frame
    height, width = frame.image.shape[:2]
    params: TaskParams = due.task.params
    text, region = params.prompt_text, params.prompt_region
    parent = due.parent
    data = ResultData(
        stream=due.stream,
        epoch=frame.epoch,
        name=due.task.name,
        task=due.task.task,
        outcome=result.outcome,
        text=None if text is None else clean(text),
        region=None if region is None else (region.x0, region.y0, region.x1, region.y1),
        zone=None if due.task.zone is None else due.task.zone.name,
        crop=result.crop,
        lease=lease,
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
        near=result.near if result.outcome == "ok" else 0,
        parent=None if parent is None else EventParent(id=parent.event, label=parent.label, track=parent.track),
        follow_ups=follow_ups,
        changes=changes,
        confirmation=_confirmation(result.answer.confirmation, width, height),
        model=model,
        quality=params.quality,
        error=None if result.error is None else clean(redact(result.error)),
        since=None if due.unchanged_since is None else rfc3339(datetime.fromtimestamp(due.unchanged_since, UTC)),
    )
    return ResultEvent(
        source=f"/agents/{agent}/streams/{due.stream}",
        id=result_id(agent, due.stream, frame.epoch, frame.seq, due.key),
        subject=due.task.name,
        time=rfc3339(datetime.fromtimestamp(frame.captured_at, UTC)),
        data=data,
    )


def result_id(agent: str, stream: str, epoch: int, seq: int, key: str) -> str:
    """Return the event id, the same for the same frame and task, also after a crash and a second run.

    `key` is the task's name, or the key of a follow-up.
    """
    return _hash([agent, stream, epoch, seq, key])


def status_event(
    agent: str,
    stream: str,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    frames: Mapping[str, Any] | FrameCounts | None = None,
    epoch: int | None = None,
    lease: int | None = None,
) -> StatusEvent:
    """Return a stream's change of state (subject `stream.<state>`). `frames` holds the keys of FrameCounts."""
    source = f"/agents/{agent}/streams/{stream}"
    return _status(source, "stream", state, reason, retry_in_s, stream=stream, epoch=epoch, frames=frames, lease=lease)


def worker_event(
    agent: str,
    worker: str,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    stream: str | None = None,
) -> StatusEvent:
    """Return a child process's change of state (`worker.<state>`); `worker` is for example `capture:gate`."""
    return _status(f"/agents/{agent}", "worker", state, reason, retry_in_s, stream=stream, worker=worker)


def canary_event(agent: str, seconds: float) -> StatusEvent:
    """Return the report that the model answered the periodic self-test (`agent.canary`)."""
    return _status(f"/agents/{agent}", "agent", "canary", f"the model answers, in {seconds * 1000:.0f} ms")


def degraded_event(agent: str, reason: str) -> StatusEvent:
    """Return the report that the model runs otherwise than configured (`agent.degraded`)."""
    return _status(f"/agents/{agent}", "agent", "degraded", reason)


def model_event(agent: str, state: str, reason: str, model: str) -> StatusEvent:
    """Return a change of the model: `changed`, `kept`, `returned` to the one before, or `refused` before it was used.

    `model`: name and hash of the new one.
    """
    return _status(f"/agents/{agent}", "model", state, reason, model=model)


def task_event(
    agent: str, stream: str, task: str, state: str,
    reason: str | None = None, retry_in_s: float | None = None, asks: str | None = None,
    keys: dict[str, Any] | None = None,
) -> StatusEvent:  # fmt: skip
    """Return a task's change: `added`, `removed`, `paused`, `resumed`, or `quarantined` because it crashes infer."""
    source = f"/agents/{agent}/streams/{stream}"
    return _status(source, "task", state, reason, retry_in_s, stream=stream, task=task, asks=asks, keys=keys)


def schedule_event(
    agent: str, stretch: Mapping[str, Mapping[Priority, float]], reason: str | None, follow_up_share: float = 1.0,
    worker: str | None = None,
) -> StatusEvent:  # fmt: skip
    """Return the report that intervals are longer by these factors (`schedule.stretched`), or `schedule.normal`.

    `follow_up_share`: the part of the follow-ups that still runs; less than 1 also counts as stretched. `worker`: the
    inference process that reports its streams, where there are several.
    """
    factors = {stream: dict(of_priority) for stream, of_priority in stretch.items()}
    state, share = "stretched" if stretch or follow_up_share < 1 else "normal", round(follow_up_share, 3)
    return _status(f"/agents/{agent}", "schedule", state, reason, stretch=factors, follow_up_share=share, worker=worker)


def sink_event(
    agent: str, sink: str, state: str,
    reason: str | None = None, retry_in_s: float | None = None, lost: Lost | None = None,
) -> StatusEvent:  # fmt: skip
    """Return a sink's change of state, subject `sink.<state>`."""
    return _status(f"/agents/{agent}/sinks/{sink}", "sink", state, reason, retry_in_s, sink=sink, lost=lost)


def ledger_event(agent: str, state: str, reason: str) -> StatusEvent:
    """Return an event about the ledger, subject `ledger.<state>`."""
    return _status(f"/agents/{agent}", "ledger", state, reason)


def output_event(
    agent: str, output: str, state: str, reason: str | None = None, retry_in_s: float | None = None
) -> StatusEvent:
    """Return a video output's change of state, subject `output.<state>`."""
    return _status(f"/agents/{agent}/outputs/{output}", "output", state, reason, retry_in_s, output=output)


def peer_event(
    agent: str, state: str, peer: str | None, stream: str | None,
    reason: str | None = None, frames: Mapping[str, Any] | FrameCounts | None = None,
) -> StatusEvent:  # fmt: skip
    """Return a change of another host that asks for frames: `peer.up`, `peer.down`, or `peer.refused`."""
    return _status(f"/agents/{agent}", "peer", state, reason, peer=peer, stream=stream, frames=frames)


def clock_event(agent: str) -> StatusEvent:
    """Return the event that advances the clock of the rules while nothing else happens (`rules.clock`)."""
    return _status(f"/agents/{agent}", "rules", "clock")


def rules_source(agent: str) -> str:
    """Return the source of the commands to the rules."""
    return f"/agents/{agent}/rules"


def command_event(agent: str, kind: CommandKind, command: CommandData, key: str | None = None) -> StatusEvent:
    """Return a command to the rules (`rules.<kind>`). Two with the same `key` have the same id."""
    event = _status(rules_source(agent), "rules", kind, command=command)
    return event if key is None else event.model_copy(update={"id": _hash([agent, kind, key])})


def word_event(agent: str, stream: str, rule: str, word: str | None, cause: str, time: str) -> StatusEvent:
    """Return the report that the `state` of a rule has another word (`rules.word`), None for no answer.

    `cause`: id of the event by which it changed, from which the id of the report follows. `time`: RFC 3339.
    """
    event = _status(f"/agents/{agent}/streams/{stream}", "rules", "word", stream=stream, rule=rule, word=word)
    return event.model_copy(update={"id": _hash([agent, stream, rule, "word", cause]), "time": time})


def streams_event(agent: str, streams: Iterable[str], reason: str) -> StatusEvent:
    """Return the report that the agent runs these streams of its config from now on (`streams.changed`)."""
    return _status(f"/agents/{agent}", "streams", "changed", reason, streams=tuple(streams))


def snapshots_event(agent: str, state: str, reason: str | None, worker: str | None = None) -> StatusEvent:
    """Return the report that snapshots cannot be stored, or can again (`snapshots.down`, `snapshots.up`).

    `worker`: the inference process that reports it, where there are several.
    """
    return _status(f"/agents/{agent}", "snapshots", state, reason, worker=worker)


def rules_event(agent: str, state: str, reason: str | None = None) -> StatusEvent:
    """Return a change of state of the rules: `started` with the agent and its config, `down`, `up`."""
    return _status(f"/agents/{agent}", "rules", state, reason)


def clean(text: str) -> str:
    """Return `text` without control characters except line feeds, and cut to MAX_TEXT characters."""
    text = text[:MAX_TEXT]
    if text.isprintable():  # as most texts
        return text
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in _UNSAFE)


def _hash(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _status(
    source: str,
    kind: str,
    state: str,
    reason: str | None = None,
    retry_in_s: float | None = None,
    **subject_fields: Any,
) -> StatusEvent:
    """`subject_fields`: the fields of StatusData that name the subject."""
    hidden = None if reason is None else clean(redact(reason))
    data = StatusData(state=state, reason=hidden, retry_in_s=_rounded(retry_in_s, 3), **subject_fields)
    now = rfc3339(datetime.now(UTC))
    return StatusEvent(source=source, id=uuid.uuid4().hex, subject=f"{kind}.{state}", time=now, data=data)


def _body(answer: Answer, width: int, height: int) -> ResultBody:
    return ResultBody(
        text=None if answer.text is None else clean(answer.text),
        score=_rounded(answer.score, 4),
        polygons=_outlines(answer.polygons, width, height),
        quads=_outlines(answer.quads, width, height),
        boxes=tuple(_box(box, width, height) for box in answer.boxes),
        spans=tuple(_spans(answer, width, height)),
    )


def _spans(answer: Answer, width: int, height: int) -> Iterator[EventSpan]:
    """Yield the spans, with their places in the cleaned text."""
    for span in answer.spans:
        text = answer.text or ""
        start, end = len(clean(text[: span.start])), len(clean(text[: span.end]))
        if start < end:
            yield _span(span, start, end, clean(text)[start:end], width, height)


def _span(span: Span, start: int, end: int, phrase: str, width: int, height: int) -> EventSpan:
    return EventSpan(
        start=start,
        end=end,
        phrase=phrase,
        score=_rounded(span.score, 4),
        supported=span.is_supported,
        boxes=tuple(_box(box, width, height) for box in span.boxes),
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


def _confirmation(confirmation: Confirmation | None, width: int, height: int) -> EventConfirmation | None:
    if confirmation is None:
        return None
    refused = []
    for one in confirmation.refused:
        shape, said = _box(one.box, width, height), None if one.said is None else clean(one.said)
        refused.append(
            EventRefused(
                label=shape.label, score=shape.score, box=shape.box, pixels=shape.pixels,
                reason=one.reason, said=said, support=_rounded(one.support, 4),
            )
        )  # fmt: skip
    return EventConfirmation(confirmed=confirmation.confirmed, refused=tuple(refused))


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
    # A half-precision model can give a score of NaN, which JSON cannot express.
    return round(number, digits) if number is not None and isfinite(number) else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def rfc3339(when: datetime) -> str:
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")
