"""Jobs of several stages: places in the engine, vision passes, times, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.composite import CompositeEngine, Question, Stages
from pipelines.florence2.fast import image_cache
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.pipeline import Florence2Settings, open_engine
from pipelines.florence2.tasks import SPECS
from streamer.types import Answer, Engine, Job, Result
from tests.support.checkpoints import make_image, make_job

REGIONS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
CATEGORY = SPECS["region_to_category"].parameters


def two_stages(job: Job) -> Stages:
    """Ask for a caption, then about each of REGIONS; return all words."""
    task = job.due.task
    (caption,) = yield [Question(task.task, task.params, "the caption")]
    kinds = yield [Question("region_to_category", CATEGORY(region=region), f"region {region}") for region in REGIONS]
    return Answer(text=" | ".join([caption.text or "", *(kind.text or "" for kind in kinds)]))


def stages_of(job: Job) -> Stages | None:
    return two_stages(job) if job.due.task.task == "caption" else None


class ScriptedEngine:
    """Answers the oldest `per_step` jobs in each step with its number and `outcome_of` them."""

    model, description, warnings = "scripted", "scripted", ()

    def __init__(self, places: int, per_step: int = 1, outcome_of: Callable[[Job], Any] = lambda _: "ok") -> None:
        self.places, self.per_step, self.outcome_of = places, per_step, outcome_of
        self.jobs: list[Job] = []
        self.seen: list[Job] = []

    def free(self) -> int:
        return self.places - len(self.jobs)

    def admit(self, jobs: Sequence[Job]) -> None:
        assert len(jobs) <= self.free()
        self.jobs += jobs
        self.seen += jobs

    def step(self) -> list[Result]:
        done, self.jobs = self.jobs[: self.per_step], self.jobs[self.per_step :]
        return [self._result(job) for job in done]

    def _result(self, job: Job) -> Result:
        outcome, number = self.outcome_of(job), self.seen.index(job)
        if outcome != "ok":
            return Result(job, outcome, error="no end" if outcome == "error" else None)
        return Result(
            job, "ok", Answer(text=job.due.task.name), None, 10.0 + number, 1.0, batch=2, draft=(4, 3), near=1
        )


def run(engine: Engine, jobs: Sequence[Job]) -> list[Result]:
    """Return the results in the order of the jobs, each admitted as soon as there is room."""
    waiting, results = list(jobs), dict[int, Result]()
    for _ in range(2000):
        taken, waiting = waiting[: engine.free()], waiting[engine.free() :]
        engine.admit(taken)
        results |= {id(result.job): result for result in engine.step()}
        if len(results) == len(jobs):
            return [results[id(job)] for job in jobs]
    raise AssertionError(f"{len(results)} of {len(jobs)} results")


def test_result_names_the_job_and_sums_its_parts() -> None:
    job = make_job("caption")
    (result,) = run(CompositeEngine(ScriptedEngine(8), stages_of), [job])
    assert result.job is job
    assert (result.outcome, result.error) == ("ok", None)
    assert result.answer.text == "caption/1.0 | caption/2.0 | caption/2.1 | caption/2.2"
    assert (result.started_mono, result.inference_s) == (10.0, 4.0)
    assert (result.device_seconds, result.batch) == (2.0, 2)
    assert (result.draft, result.near) == ((16, 12), 4)


def test_parts_have_the_frame_object_of_their_job() -> None:
    inner, job = ScriptedEngine(8), make_job("caption")
    run(CompositeEngine(inner, stages_of), [job])
    assert all(part.frame is job.frame for part in inner.seen)


def test_job_with_one_prompt_is_passed_on_as_it_is() -> None:
    inner, job = ScriptedEngine(8), make_job("ocr")
    (result,) = run(CompositeEngine(inner, stages_of), [job])
    assert inner.seen == [job]
    assert result.job is inner.seen[0]


@pytest.mark.parametrize("places", [1, 2, 3])
def test_waiting_parts_take_places_before_new_jobs(places: int) -> None:
    """Each job keeps a place from its admission on, so that none is held up by another camera's."""
    inner = ScriptedEngine(places)
    engine = CompositeEngine(inner, stages_of)
    jobs = [make_job("caption", stream=f"camera{number}") for number in range(4)]
    jobs += [make_job("ocr", stream="camera5")]
    results = run(engine, jobs)
    assert [result.job.due.stream for result in results] == [job.due.stream for job in jobs]
    assert len(inner.seen) == 4 * 4 + 1
    assert engine.free() == places
    assert inner.seen[-1].due.stream != "camera0"


def test_too_many_jobs_are_refused() -> None:
    engine = CompositeEngine(ScriptedEngine(2), stages_of)
    with pytest.raises(ValueError, match="3 jobs for 2 free places"):
        engine.admit([make_job("caption") for _ in range(3)])


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("error", "region (0.5, 0.0, 1.0, 0.5): no end"), ("timeout", "region (0.5, 0.0, 1.0, 0.5): timeout")],
)
def test_part_without_an_answer_fails_the_job(outcome: str, error: str) -> None:
    inner = ScriptedEngine(2, outcome_of=lambda job: outcome if job.due.task.name.endswith("2.1") else "ok")
    engine = CompositeEngine(inner, stages_of)
    job = make_job("caption")
    (result,) = run(engine, [job])
    assert result.job is job
    assert (result.outcome, result.error, result.answer) == (outcome, error, Answer())
    assert engine.free() == 2, "no part is left"


def test_no_further_parts_run_after_a_failed_one() -> None:
    inner = ScriptedEngine(1, outcome_of=lambda job: "error" if job.due.task.name.endswith("2.0") else "ok")
    run(CompositeEngine(inner, stages_of), [make_job("caption")])
    assert [job.due.task.name for job in inner.seen] == ["caption/1.0", "caption/2.0"]


def test_job_that_asks_nothing_is_empty() -> None:
    def nothing(_: Job) -> Stages:
        yield []
        return Answer()

    (result,) = run(CompositeEngine(ScriptedEngine(1), nothing), [make_job("caption")])
    assert (result.outcome, result.device_seconds) == ("empty", 0.0)


@pytest.fixture(scope="module")
def fast(checkpoint: Path) -> FastEngine:
    engine = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=3))
    assert isinstance(engine, FastEngine)
    return engine


def jobs_of(cameras: int) -> list[Job]:
    jobs = []
    for camera in range(cameras):
        job = make_job("caption" if camera % 3 == 0 else "ocr", make_image(camera), f"camera{camera}", max_tokens=40)
        jobs.append(job)
    return jobs


def test_vision_tower_runs_once_per_frame(fast: FastEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of other cameras come and go between two stages."""
    monkeypatch.setattr(image_cache, "CACHED_FRAMES", 1)
    jobs = jobs_of(12)
    before = fast.image_cache.misses
    results = run(CompositeEngine(fast, stages_of), jobs)
    assert {result.outcome for result in results} <= {"ok", "empty"}
    assert fast.image_cache.misses - before == len(jobs)


def test_failed_parts_leave_nothing_in_the_engine(fast: FastEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second region of each caption has no answer, while parts of other jobs wait and run."""
    decode = fast.processor.decode

    def fail(job: Job, *rest: Any) -> Answer | str:
        return "no end" if job.due.task.name.endswith("2.1") else decode(job, *rest)

    monkeypatch.setattr(fast.processor, "decode", fail)
    jobs, engine, returned = jobs_of(9), CompositeEngine(fast, stages_of), Counter[int]()
    waiting = list(jobs)
    while waiting or engine.free() < 3:
        taken, waiting = waiting[: engine.free()], waiting[engine.free() :]
        engine.admit(taken)
        for result in engine.step():
            returned[id(result.job)] += 1
            is_caption = result.job.due.task.task == "caption"
            assert result.error == (f"region {REGIONS[1]}: no end" if is_caption else None)
    assert returned == Counter(map(id, jobs))
    assert engine.step() == []
    assert not fast.scheduler.images_in_use()
    assert not fast.greedy.jobs


def test_answers_equal_the_prompts_one_by_one(fast: FastEngine, checkpoint: Path) -> None:
    plain = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=3, engine="plain"))
    jobs = [job for job in jobs_of(4) if job.due.task.task == "caption"]
    ours, theirs = (run(CompositeEngine(engine, stages_of), jobs) for engine in (fast, plain))
    assert [result.answer.text for result in ours] == [result.answer.text for result in theirs]
    alone = run(fast, [make_job("region_to_category", jobs[0].frame.image, region=region) for region in REGIONS])
    assert (ours[0].answer.text or "").split(" | ")[1:] == [one.answer.text or "" for one in alone]


def test_next_answer_has_drafts_of_all_stages(fast: FastEngine) -> None:
    engine, image = CompositeEngine(fast, stages_of), make_image(50)
    (first,) = run(engine, [make_job("caption", image, "drafted")])
    (second,) = run(engine, [make_job("caption", image, "drafted")])
    assert first.draft is None
    assert second.draft is not None
    assert second.draft[1] > 4
    assert second.answer.text == first.answer.text
    assert replace(second, draft=None).outcome == first.outcome
