"""Frames, results and events for tests, made with the program's own builders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from streamer.events.build import result_event
from streamer.events.schema import ResultEvent
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
