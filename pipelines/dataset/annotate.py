"""Runs a model over pictures and keeps its answers; a run that was interrupted continues where it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.dataset.annotations import Annotation, AnnotationFile, read_annotations
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.pipeline import pipeline
from streamer.core.errors import ConfigError, PipelineError
from streamer.core.model_name import model_name
from streamer.core.picture_files import read_picture
from streamer.types import DueTask, Engine, Frame, Job, Region, Task

TELL_EVERY_S = 10.0
"""Seconds between two lines of progress."""


class Shot(NamedTuple):
    """A picture and where it comes from."""

    image: str
    """Path relative to the dataset's folder."""
    stream: str | None = None
    taken_at: float | None = None


class Questions(NamedTuple):
    """A picture with the tasks to ask about it. Their names differ."""

    shot: Shot
    tasks: Sequence[Task]


class Counts(NamedTuple):
    """Outcome of a run."""

    answered: int
    failed: int
    """Jobs without an answer: an unreadable picture, an error of the model."""
    known: int = 0
    """Answers that an earlier run had made."""


class Model(NamedTuple):
    """A model that can be asked."""

    checkpoint: str | None
    """None: the shipped one."""
    digest: str
    name: str
    """Name and hash, as in `Annotation.model`."""


def find_model(checkpoint: str | None) -> Model:
    """Return a model by its checkpoint, whose files are read for the hash. Raises ConfigError."""
    files = open_folder(checkpoint)
    digest = files.digest()
    return Model(checkpoint, digest, model_name(files.name, digest))


def ask(
    model: Model,
    folder: Path,
    questions: Sequence[Questions],
    path: Path,
    device: str,
    tell: Callable[[str], None],
) -> Counts:
    """Ask a model what it has not answered in the file `path` yet, and append its answers.

    The model is loaded only if a question is open. Raises ConfigError.
    """
    with AnnotationFile(path) as out:
        left, known = unanswered(questions, model.name, path)
        if not left:
            return Counts(0, 0, known)
        engine = pipeline.open(pipeline.settings(checkpoint=model.checkpoint, device=device))
        return annotate(folder, left, engine, model.name, out, tell)._replace(known=known)


def unanswered(questions: Sequence[Questions], model: str, path: Path) -> tuple[list[Questions], int]:
    """Return the questions that a model has not answered in a file, and the number of the others."""
    answered = {annotation.key for annotation in read_annotations(path)}
    found = [
        Questions(shot, [one for one in tasks if _key(shot, one, model) not in answered]) for shot, tasks in questions
    ]
    count = sum(len(tasks) for _, tasks in questions) - sum(len(tasks) for _, tasks in found)
    return [one for one in found if one.tasks], count


def annotate(
    folder: Path,
    questions: Sequence[Questions],
    engine: Engine,
    model: str,
    out: AnnotationFile,
    tell: Callable[[str], None],
) -> Counts:
    """Ask questions and append the answers to `out`. `model`: as in `Annotation.model`.

    Pictures are read when the engine has room.
    """
    total = sum(len(tasks) for _, tasks in questions)
    jobs = _jobs(folder, questions, tell)
    running = answered = failed = 0
    started = told = time.monotonic()
    exhausted = False
    while running or not exhausted:
        while not exhausted and engine.free() > 0:
            job = next(jobs, None)
            if job is None:
                exhausted = True
            elif isinstance(job, Unreadable):
                failed += job.questions
            else:
                engine.admit([job])
                running += 1
        for result in engine.step() if running else ():
            running -= 1
            shot, task = questions[result.job.frame.seq].shot, result.job.due.task
            if result.outcome in ("ok", "empty"):
                image, name, text, region, _ = _key(shot, task, model)
                out.add(Annotation(image, name, result.answer, model, text, region, shot.stream, shot.taken_at))
                answered += 1
            else:
                failed += 1
                tell(f"{shot.image}: {task.name}: {result.error}")
        if (now := time.monotonic()) - told > TELL_EVERY_S and answered:
            told = now
            minutes = (total - answered - failed) * (now - started) / answered / 60
            tell(f"{answered} of {total} answers, {minutes:.0f} min left")
    return Counts(answered, failed)


def _key(shot: Shot, task: Task, model: str) -> tuple[str, str, str | None, Region | None, str]:
    """Return the key of the annotation that answers a question."""
    return shot.image, task.task, task.params.prompt_text, task.params.prompt_region, model


class Unreadable(NamedTuple):
    """A picture that cannot be read."""

    questions: int


def _jobs(folder: Path, questions: Iterable[Questions], tell: Callable[[str], None]) -> Iterator[Job | Unreadable]:
    """Yield the jobs of all questions, those about one picture together."""
    for number, (shot, tasks) in enumerate(questions):
        try:
            image = read_picture(folder / shot.image)
        except (ConfigError, PipelineError) as error:
            tell(str(error))
            yield Unreadable(len(tasks))
            continue
        # Each picture is a stream of its own: the answer about another picture is no draft for it.
        frame = Frame(shot.image, 0, number, shot.taken_at or 0.0, 0.0, None, image)
        for task in tasks:
            yield Job(DueTask(shot.image, task, math.inf), frame)
