"""Stages of the jobs that need several prompts. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.florence2.composite import CompositeEngine, Question, Stages
from pipelines.florence2.grounded import GROUNDED_SPECS, grounded_caption
from streamer.types import Answer, Engine, Job


def with_stages(engine: Engine) -> CompositeEngine:
    """Return an engine that takes every job of a config, around one whose jobs have one prompt each."""
    return CompositeEngine(engine, stages_of)


def stages_of(job: Job) -> Stages | None:
    """Return the stages of a job; None if it has one prompt."""
    if job.due.task.task in GROUNDED_SPECS:
        return grounded_caption(job)
    if len(job.due.task.params.texts) > 1:
        return _each_text(job)
    return None


def _each_text(job: Job) -> Stages:
    """Ask about each text of a list; each shape is labelled with the text that it answers."""
    task = job.due.task
    texts: Sequence[str] = task.params.texts
    answers = yield [
        Question(task.task, task.params.model_copy(update={"text": text}), f"text `{text}`") for text in texts
    ]
    pairs = list(zip(texts, answers, strict=True))
    return Answer(
        boxes=tuple(replace(box, label=text) for text, answer in pairs for box in answer.boxes),
        polygons=tuple(replace(shape, label=text) for text, answer in pairs for shape in answer.polygons),
    )
