"""Runs a model over pictures and keeps its answers; a run that was interrupted continues where it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.dataset.annotations import Annotation, AnnotationFile, read_annotations
from pipelines.dataset.pictures import read_picture
from streamer.core.errors import ConfigError, PipelineError
from streamer.types import DueTask, Engine, Frame, Job, Task

TELL_EVERY_S = 10.0
"""Seconds between two lines of progress."""


class Shot(NamedTuple):
    """A picture and where it comes from."""

    image: str
    """Path relative to the dataset's folder."""
    stream: str | None = None
    taken_at: float | None = None


class Counts(NamedTuple):
    """Outcome of a run."""

    answered: int
    known: int
    """Answers that an earlier run had made."""
    failed: int
    """Jobs without an answer: an unreadable picture, an error of the model."""


def annotate(
    folder: Path,
    shots: Sequence[Shot],
    tasks: Sequence[Task],
    engine: Engine,
    model: str,
    out: AnnotationFile,
    tell: Callable[[str], None],
) -> Counts:
    """Ask `tasks` about each picture, and append the answers to `out`.

    `model`: the checkpoint's name and hash, as in `Annotation.model`. Pictures are read when the engine has room.
    """
    known = {annotation.key for annotation in read_annotations(out.path)}
    total = len(shots) * len(tasks)
    jobs = _jobs(folder, shots, tasks, model, known, tell)
    running = answered = failed = 0
    started = told = time.monotonic()
    exhausted = False
    while running or not exhausted:
        while not exhausted and engine.free() > 0:
            job = next(jobs, None)
            if job is None:
                exhausted = True
            elif isinstance(job, Unreadable):
                failed += len(tasks)
            else:
                engine.admit([job])
                running += 1
        for result in engine.step() if running else ():
            running -= 1
            if result.outcome in ("ok", "empty"):
                shot = shots[result.job.frame.seq]
                task = result.job.due.task
                params = task.params
                out.add(
                    Annotation(
                        *(shot.image, task.task, result.answer, model),
                        *(params.prompt_text, params.prompt_region, shot.stream, shot.taken_at),
                    )
                )
                answered += 1
            else:
                failed += 1
                tell(f"{shots[result.job.frame.seq].image}: {result.job.due.task.name}: {result.error}")
        if (now := time.monotonic()) - told > TELL_EVERY_S and answered:
            told = now
            rest = total - answered - failed - len(known)
            tell(f"{answered + len(known)} of {total} answers, {rest * (now - started) / answered / 60:.0f} min left")
    return Counts(answered, total - answered - failed, failed)


class Unreadable(NamedTuple):
    """A picture that cannot be read."""

    image: str


def _jobs(
    folder: Path,
    shots: Sequence[Shot],
    tasks: Iterable[Task],
    model: str,
    known: Collection[tuple[object, ...]],
    tell: Callable[[str], None],
) -> Iterator[Job | Unreadable]:
    """Yield the jobs that have no answer yet, those about one picture together."""
    for number, shot in enumerate(shots):
        todo = [
            task
            for task in tasks
            if (shot.image, task.task, task.params.prompt_text, task.params.prompt_region, model) not in known
        ]
        if not todo:
            continue
        try:
            image = read_picture(folder / shot.image)
        except (ConfigError, PipelineError) as error:
            tell(str(error))
            yield Unreadable(shot.image)
            continue
        # Each picture is a stream of its own: the answer about another picture is no draft for it.
        frame = Frame(shot.image, 0, number, shot.taken_at or 0.0, 0.0, None, image)
        for task in todo:
            yield Job(DueTask(shot.image, task, math.inf), frame)
