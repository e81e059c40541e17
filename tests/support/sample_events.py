"""Frames, results and events for tests, made with the program's own builders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from streamer.events.build import result_event
from streamer.events.incident_data import IncidentData, IncidentFrame
from streamer.events.schema import IncidentEvent, ResultEvent
from streamer.types import Answer, Box, DueTask, Frame, Job, Result, Task, TaskParams
from tests.support.tasks import PARAMS


def frame(stream: str = "gate", seq: int = 0, captured_mono: float = 100.0) -> Frame:
    image = np.zeros((1080, 1920, 3), np.uint8)
    return Frame(stream, 1764000000123, seq, 1764000000.123456, captured_mono, 34.733, image)


def result(
    stream: str = "gate", seq: int = 0, name: str = "people", params: TaskParams = PARAMS, **changes: Any
) -> Result:
    due = DueTask(stream, Task(name, "object_detection", params), deadline=0.0)
    answer = Answer(boxes=(Box(0.1, 0.2, 0.3, 0.6, "person", 0.93),))
    whole = Result(Job(due, frame(stream, seq)), "ok", answer, started_mono=100.0121, inference_s=0.041)
    return replace(whole, **changes)


def event(stream: str = "gate", seq: int = 0, name: str = "people", agent: str = "home") -> ResultEvent:
    return result_event(agent, result(stream, seq, name), "tiny")


def incident(
    state: Literal["start", "update", "end"] = "start", number: int = 0, rule: str = "ladder", stream: str = "gate"
) -> IncidentEvent:
    """Return an event of the one incident of a rule on a stream."""
    data = IncidentData(
        stream=stream, rule=rule, rule_hash="5a1e", incident=f"{rule}-{stream}", state=state, number=number,
        severity="high", text=f"a person with a ladder at {stream}", reason=None,
        started="2026-11-23T22:10:04.120000Z", seconds=1.0, count=1, answers=2,
        best=IncidentFrame(event="c3623d", epoch=1, seq=7, label="person", score=0.9, box=(0.1, 0.2, 0.3, 0.6)),
        evidence=("c3623d",), why=(),
    )  # fmt: skip
    return IncidentEvent(
        source=f"/agents/home/streams/{stream}", id=f"{rule}-{stream}-{number}", subject=f"incident.{rule}",
        time="2026-11-23T22:10:04.120000Z", data=data,
    )  # fmt: skip
