"""Runs a job whose task has a list of texts as one job per text, and joins their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streamer.types import Answer, Engine, Job, Result


@dataclass(slots=True)
class _List:
    """One job with a list of texts."""

    job: Job
    results: dict[int, Result] = field(default_factory=dict)
    """Results by index of the text."""

    def part(self, index: int) -> Job:
        """Return the job of one text. Its task has a name of its own, because drafts are kept by name."""
        due = self.job.due
        params = due.task.params.model_copy(update={"text": due.task.params.texts[index]})
        task = replace(due.task, name=f"{due.task.name}/{index}", params=params)
        return replace(self.job, due=replace(due, task=task))

    def joined(self) -> Result:
        """Return the result of the whole job: an error if the answer to one text is an error."""
        texts = self.job.due.task.params.texts
        parts = [self.results[index] for index in range(len(texts))]
        started = min(part.started_mono for part in parts)
        ended = max(part.started_mono + part.inference_s for part in parts)
        drafts = [part.draft for part in parts if part.draft is not None]
        result = Result(
            self.job,
            "ok" if any(part.outcome == "ok" for part in parts) else "empty",
            started_mono=started,
            inference_s=ended - started,
            batch=max(part.batch for part in parts),
            near=sum(part.near for part in parts),
            draft=(sum(draft[0] for draft in drafts), sum(draft[1] for draft in drafts)) if drafts else None,
        )
        for text, part in zip(texts, parts, strict=True):
            if part.outcome == "error":
                return replace(result, outcome="error", error=f"text `{text}`: {part.error}", draft=None, near=0)
        return replace(result, answer=_labelled(texts, [part.answer for part in parts]))


def _labelled(texts: Sequence[str], answers: Sequence[Answer]) -> Answer:
    """Return one answer with the shapes of all, each labelled with the text that it answers."""
    pairs = list(zip(texts, answers, strict=True))
    return Answer(
        boxes=tuple(replace(box, label=text) for text, answer in pairs for box in answer.boxes),
        polygons=tuple(replace(shape, label=text) for text, answer in pairs for shape in answer.polygons),
    )


class TextListEngine:
    """An engine around another one, which takes lists of texts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Job] = deque()
        """Jobs that the engine has no room for yet."""
        self._lists: dict[int, tuple[_List, int]] = {}
        """List and index of the text of each job in the engine or waiting, by the id of the job's DueTask."""

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
        return max(0, self._engine.free() - len(self._waiting))

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next steps. Raises ValueError when there are more than `free()`."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        for job in jobs:
            if job.due.task.params.prompts == 1:
                self._engine.admit([job])
            else:
                self._split(job)
        self._fill()

    def step(self) -> list[Result]:
        """Make some progress; return the jobs that have finished."""
        results = []
        for result in self._engine.step():
            entry = self._lists.pop(id(result.job.due), None)
            if entry is None:
                results.append(result)
                continue
            whole, index = entry
            whole.results[index] = result
            if len(whole.results) == whole.job.due.task.params.prompts:
                results.append(whole.joined())
        self._fill()
        return results

    def _split(self, job: Job) -> None:
        whole = _List(job)
        for index in range(job.due.task.params.prompts):
            part = whole.part(index)
            self._waiting.append(part)
            self._lists[id(part.due)] = whole, index

    def _fill(self) -> None:
        while self._waiting and self._engine.free():
            self._engine.admit([self._waiting.popleft()])
