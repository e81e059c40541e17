"""Runs a job that needs several prompts, in one or more stages, as jobs with one prompt each on its frame.

Such a composite job is a generator (`Stages`): it yields the questions of a stage, gets their answers, and returns the
answer of the whole job. The questions share the job's frame object, so the engine's image cache has its tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from streamer.types import Answer, Engine, Image, Job, Result


class Question(NamedTuple):
    """One prompt about the frame of a composite job."""

    task: str
    """Kind of task."""
    params: Any
    """The kind's parameters, for one prompt."""
    about: str
    """Part of the job that it is about, for error messages."""
    image: Image | None = None
    """Part of the frame's picture that it is about; None: all of it."""


Stages = Generator[Sequence[Question], Sequence[Answer], Answer]
"""Yields the questions of each stage and gets their answers in this order; returns the answer of the job."""


@dataclass(slots=True, eq=False)
class _Composite:
    """A composite job in the engine."""

    job: Job
    stages: Stages
    stage: int = 0
    questions: Sequence[Question] = ()
    """The questions of the present stage."""
    waiting: deque[tuple[int, Job]] = field(default_factory=deque)
    """Parts of the present stage that the engine has no room for yet, with the number of their question."""
    running: int = 0
    """Parts that the engine has."""
    answered: dict[int, Result] = field(default_factory=dict)
    """Results of the present stage by number of the question."""
    results: list[Result] = field(default_factory=list)
    """Results of all stages."""

    def advance(self, answers: Sequence[Answer] | None) -> Result | None:
        """Begin the next stage; return the job's result if there is none. `answers` is None for the first stage."""
        try:
            self.questions = self.stages.send(answers)  # type: ignore[arg-type]  # a generator begins with None
        except StopIteration as end:
            answer: Answer = end.value
            return replace(self._summed(), outcome="empty" if answer.is_empty else "ok", answer=answer)
        self.stage += 1
        self.answered = {}
        self.waiting.extend((number, self._part(number)) for number in range(len(self.questions)))
        return None if self.questions else self.advance(())

    def take(self, number: int, result: Result) -> Result | None:
        """Record the result of a question; return the job's result if it was the last one.

        After a question without an answer, the job has none: its outcome is that of the question.
        """
        self.running -= 1
        self.answered[number] = result
        self.results.append(result)
        if result.outcome not in ("ok", "empty"):
            self.waiting.clear()
        if self.waiting or self.running:
            return None
        by_number = sorted(self.answered.items())
        for number, one in by_number:
            if one.outcome not in ("ok", "empty"):
                error = f"{self.questions[number].about}: {one.error or one.outcome}"
                return replace(self._summed(), outcome=one.outcome, error=error, draft=None, near=0)
        return self.advance([one.answer for _, one in by_number])

    def _part(self, number: int) -> Job:
        """Return the job of a question. Its task has a name of its own, because drafts are kept by name."""
        question, due = self.questions[number], self.job.due
        name = f"{due.task.name}/{self.stage}.{number}"
        task = replace(due.task, name=name, task=question.task, params=question.params)
        frame = self.job.frame if question.image is None else replace(self.job.frame, image=question.image)
        return Job(replace(due, task=task), frame)

    def _summed(self) -> Result:
        """Return a result with the times and counts of all parts."""
        if not self.results:
            return Result(self.job, "empty")
        started = min(part.started_mono for part in self.results)
        drafts = [part.draft for part in self.results if part.draft is not None]
        return Result(
            self.job,
            "empty",
            started_mono=started,
            inference_s=max(part.started_mono + part.inference_s for part in self.results) - started,
            batch=max(part.batch for part in self.results),
            device_s=sum(part.device_seconds for part in self.results),
            near=sum(part.near for part in self.results),
            draft=(sum(draft[0] for draft in drafts), sum(draft[1] for draft in drafts)) if drafts else None,
        )


class CompositeEngine:
    """An engine around another one, which takes composite jobs too.

    A composite job counts as one job. From its admission to its result it keeps one place in the engine; its other
    parts take places that are free, before new jobs do.
    """

    def __init__(self, engine: Engine, stages_of: Callable[[Job], Stages | None]) -> None:
        """`stages_of` returns the stages of a composite job, and None for a job with one prompt."""
        self._engine, self._stages_of = engine, stages_of
        self._composites: list[_Composite] = []
        """Composite jobs without a result, in order of admission."""
        self._parts: dict[int, tuple[_Composite, int]] = {}
        """Composite job and number of the question of each part in the engine, by the id of the part's DueTask."""
        self._finished: list[Result] = []
        """Results of composite jobs that had nothing to ask."""

    @property
    def model(self) -> str:
        return self._engine.model

    @property
    def description(self) -> str:
        return self._engine.description

    @property
    def warnings(self) -> Sequence[str]:
        return self._engine.warnings

    def free(self) -> int:
        return max(0, self._engine.free() - sum(len(composite.waiting) for composite in self._composites))

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next steps. Raises ValueError when there are more than `free()`."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        begun: list[_Composite] = []
        for job in jobs:
            stages = self._stages_of(job)
            if stages is None:
                self._engine.admit([job])
            else:
                begun.append(_Composite(job, stages))
        for composite in begun:
            if result := composite.advance(None):
                self._finished.append(result)
            else:
                self._composites.append(composite)
        self._fill(begun)

    def step(self) -> list[Result]:
        """Make some progress; return the jobs that have finished."""
        finished, self._finished = self._finished, []
        going_on: list[_Composite] = []
        for result in self._engine.step():
            if (part := self._parts.pop(id(result.job.due), None)) is None:
                finished.append(result)
                continue
            composite, number = part
            if whole := composite.take(number, result):
                self._composites.remove(composite)
                finished.append(whole)
            else:
                going_on.append(composite)
        if self._composites:
            self._fill(going_on)
        return finished

    def _fill(self, first: Iterable[_Composite]) -> None:
        """Admit waiting parts as there is room: one of each job in `first`, then the others in order of admission."""
        for composite in first:
            self._admit_part(composite)
        for composite in self._composites:
            while self._admit_part(composite):
                pass

    def _admit_part(self, composite: _Composite) -> bool:
        if not composite.waiting or not self._engine.free():
            return False
        number, part = composite.waiting.popleft()
        self._parts[id(part.due)] = composite, number
        composite.running += 1
        self._engine.admit([part])
        return True
