"""Tasks with several prompts: a list of texts gives one result with the shapes of all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.tasks import MAX_TEXTS
from streamer.types import Job, Result
from tests.support.checkpoints import make_image, make_job, shapes

TEXTS = ["a green car", "a truck", "two people"]


@pytest.fixture(params=["fast", "plain"])
def engine(request: Any, checkpoint: Path) -> Any:
    return pipeline.open(Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=4, engine=request.param))


def run(engine: Any, jobs: list[Job]) -> list[Result]:
    results: list[Result] = []
    waiting = list(jobs)
    while len(results) < len(jobs):
        taken, waiting = waiting[: engine.free()], waiting[engine.free() :]
        engine.admit(taken)
        results += engine.step()
    return results


def places(found: list[Any]) -> list[str]:
    """Return the shapes in order, without scores, which differ in their last digits."""
    return sorted(repr(replace(shape, score=None)) for shape in found)


@pytest.mark.parametrize("task", ["open_vocabulary_detection", "phrase_grounding", "referring_segmentation"])
def test_list_equals_its_texts_one_by_one(engine: Any, task: str) -> None:
    image = make_image(1)
    job = make_job(task, image, text=TEXTS)
    (whole,) = run(engine, [job])
    alone = [run(engine, [make_job(task, image, text=text)])[0] for text in TEXTS]
    assert whole.job is job
    assert whole.outcome == ("ok" if any(one.outcome == "ok" for one in alone) else "empty")
    pairs = zip(TEXTS, alone, strict=True)
    expected = [replace(shape, label=text) for text, one in pairs for shape in shapes(one.answer)]
    assert places(shapes(whole.answer)) == places(expected)


def test_lists_longer_than_the_engine_finish(engine: Any) -> None:
    texts = [f"car {index}" for index in range(MAX_TEXTS)]
    jobs = [make_job("open_vocabulary_detection", make_image(n), text=texts) for n in range(2)]
    jobs += [make_job("caption", make_image(n)) for n in range(2)]
    results = run(engine, jobs)
    assert {id(result.job) for result in results} == {id(job) for job in jobs}
    assert engine.free() == 4


def test_error_of_one_text_is_the_error_of_the_job(engine: Any) -> None:
    (result,) = run(engine, [make_job("open_vocabulary_detection", make_image(1), text=TEXTS, max_tokens=1)])
    assert result.outcome == "error"
    assert (result.error or "").startswith("text `a green car`: the answer did not end")
    assert not shapes(result.answer)
    assert engine.free() == 4
