"""Stages of the jobs that need several prompts. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.florence2.composite import CompositeEngine, Question, Stages
from pipelines.florence2.confirm import second_look
from pipelines.florence2.grounded import GROUNDED_SPECS, grounded_caption
from pipelines.florence2.tiles import Tiles, over_tiles
from streamer.types import Answer, Confirmation, Engine, Job


def with_stages(engine: Engine) -> CompositeEngine:
    """Return an engine that takes every job of a config, around one whose jobs have one prompt each."""
    return CompositeEngine(engine, stages_of)


def stages_of(job: Job) -> Stages | None:
    """Return the stages of a job; None if it has one prompt."""
    if job.due.task.task in GROUNDED_SPECS:
        return grounded_caption(job)
    params = job.due.task.params
    tiles: Tiles | None = getattr(params, "tiles", None)
    is_search = len(params.texts) > 1 or getattr(params, "confirm", None) is not None
    stages = _search(job) if is_search else None
    return stages if tiles is None else over_tiles(stages or _once(job), job, tiles)


def _once(job: Job) -> Stages:
    task = job.due.task
    (answer,) = yield [Question(task.task, task.params, "")]
    return answer


def _search(job: Job) -> Stages:
    """Search for each text, then look again if the task says so. Shapes of a list are labelled with their texts."""
    task = job.due.task
    texts: Sequence[str] = task.params.texts
    answers = yield [
        Question(task.task, task.params.model_copy(update={"text": text}), f"text `{text}`") for text in texts
    ]
    if task.params.confirm is not None:
        answers = yield from second_look(job, texts, answers)
    return answers[0] if len(texts) == 1 else _joined(texts, answers)


def _joined(texts: Sequence[str], answers: Sequence[Answer]) -> Answer:
    """Return one answer with the shapes of all, each labelled with the text that it answers."""
    pairs = list(zip(texts, answers, strict=True))
    looks = [(text, answer.confirmation) for text, answer in pairs if answer.confirmation is not None]
    refused = (
        replace(one, box=replace(one.box, label=text)) for text, confirmation in looks for one in confirmation.refused
    )
    return Answer(
        boxes=tuple(replace(box, label=text) for text, answer in pairs for box in answer.boxes),
        polygons=tuple(replace(shape, label=text) for text, answer in pairs for shape in answer.polygons),
        confirmation=Confirmation(sum(look.confirmed for _, look in looks), tuple(refused)) if looks else None,
    )
