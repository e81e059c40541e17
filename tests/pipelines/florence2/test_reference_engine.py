"""The plain engine on a small random checkpoint: types, batches, failures, and equality with the library's own way."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.reference_engine import ReferenceEngine, Row
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS, Quality, location_tokens
from streamer.types import Engine, Job, Pipeline, Result
from tests.support.checkpoints import assert_same, build, job, picture

FILLED = {
    "text": {"text"},
    "boxes": {"boxes"},
    "polygons": {"polygons"},
    "quads": {"quads"},
    "boxes_or_polygons": {"boxes", "polygons"},
}


def run(engine: Engine, *jobs: Job) -> list[Result]:
    """All results, in the order of the jobs."""
    engine.admit(jobs)
    results = engine.step()
    return [next(result for result in results if result.job is wanted) for wanted in jobs]


def question(of: Job) -> str:
    """The job as the library's processor takes it."""
    params = of.due.task.params
    given = location_tokens(params.region) if hasattr(params, "region") else getattr(params, "text", "")
    return FLORENCE_TASKS[of.due.task.task].token + given


def ended(tokens: list[int]) -> list[int]:
    """Without the padding."""
    while tokens[-1] == 1:
        tokens = tokens[:-1]
    return tokens


def test_the_contract(engine: ReferenceEngine) -> None:
    contract: Pipeline = pipeline
    kept: Engine = engine
    assert set(contract.tasks()) == set(SPECS)
    assert kept.model == "small"


@pytest.mark.parametrize("quality", get_args(Quality))
def test_all_tasks_in_one_batch_answer_with_their_types(engine: ReferenceEngine, quality: Quality) -> None:
    jobs = [job(task, picture(seed), quality=quality) for seed, task in enumerate(SPECS)]
    results = run(engine, *jobs)
    assert {result.outcome for result in results} <= {"ok", "empty"}, [result.error for result in results]
    assert "ok" in {result.outcome for result in results}
    for result in results:
        filled = {key for key in ("text", "boxes", "polygons", "quads") if getattr(result.answer, key)}
        assert filled <= FILLED[SPECS[result.job.due.task.task].result]
        assert (result.outcome == "empty") == (not filled)
        assert result.error is None
        assert result.batch == 15
        assert result.started_mono > 0
        assert result.inference_s > 0


def test_answers_depend_on_the_picture_and_the_question(engine: ReferenceEngine) -> None:
    results = run(engine, *(job("caption", picture(seed)) for seed in range(6)), job("detailed_caption", picture(0)))
    assert len({result.answer.text for result in results}) > 3


@pytest.mark.parametrize("quality", get_args(Quality))
def test_tokens_equal_the_processor_and_generate(engine: ReferenceEngine, processor: Any, quality: Quality) -> None:
    jobs = [job(task, picture(seed)) for seed, task in enumerate(SPECS)]
    images = [Pil.fromarray(of.frame.image[..., ::-1].copy()) for of in jobs]
    inputs = processor(text=[question(of) for of in jobs], images=images, padding=True, return_tensors="pt")
    greedy = {"num_beams": 1, "early_stopping": False} if quality == "fast" else {}
    theirs = engine._checkpoint.model.generate(**inputs, **greedy, max_new_tokens=100)
    rows = [
        dataclasses.replace(engine.prepare(of), pixels=pixels)
        for of, pixels in zip(jobs, inputs.pixel_values, strict=True)
    ]
    ours = engine.generate(rows, quality)
    assert [ended(written.tokens) for written in ours] == [ended(tokens) for tokens in theirs.tolist()]
    assert all(written.tokens[:2] == [2, 0] for written in ours), "the start is forced"


def test_the_qualities_differ(engine: ReferenceEngine) -> None:
    rows = [engine.prepare(job(task, picture(seed))) for seed, task in enumerate(SPECS)]
    assert engine.generate(rows, "fast") != engine.generate(rows, "official")


def test_a_batch_gives_what_single_jobs_give(engine: ReferenceEngine) -> None:
    jobs = [job(task, picture(seed), stream=f"s{seed % 3}") for seed, task in enumerate(SPECS)]
    assert_same(run(engine, *jobs), [run(engine, of)[0] for of in jobs])


def test_qualities_share_a_step_but_no_batch(engine: ReferenceEngine) -> None:
    results = run(engine, job("caption"), job("ocr", quality="official"), job("caption", picture(3)))
    assert [result.batch for result in results] == [2, 1, 2]


def test_places(engine: ReferenceEngine) -> None:
    assert engine.step() == []
    assert engine.free() == 32
    engine.admit([job("caption")] * 3)
    assert engine.free() == 29
    with pytest.raises(ValueError, match="30 jobs for 29 free places"):
        engine.admit([job("caption")] * 30)
    assert len(engine.step()) == 3
    assert engine.free() == 32


def test_an_answer_that_does_not_end_is_an_error_for_that_job_alone(engine: ReferenceEngine) -> None:
    for quality in get_args(Quality):
        short, whole = run(engine, job("ocr", max_tokens=2, quality=quality), job("ocr", quality=quality))
        assert short.outcome == "error"
        assert short.error == "the answer did not end within 2 tokens"
        assert short.answer.is_empty
        assert whole.outcome in ("ok", "empty")


def test_the_cap_is_exact(engine: ReferenceEngine) -> None:
    """An answer of n tokens, its end included, passes a cap of n and fails one of n - 1."""
    of = job("caption")
    length = len(ended(engine.generate([engine.prepare(of)], "fast")[0].tokens)) - 1
    other = job("more_detailed_caption", picture(5))
    assert run(engine, job("caption", max_tokens=length), other)[0].outcome == "ok"
    assert run(engine, job("caption", max_tokens=length - 1), other)[0].outcome == "error"
    assert run(engine, job("caption", max_tokens=length - 1))[0].outcome == "error"


def test_the_decoder_is_never_overrun(tmp_path: Path) -> None:
    bias: dict[str, Any] = {"exponential_decay_length_penalty": None, "sequence_bias": [[[2], -1e4]]}
    endless = build(tmp_path / "endless", positions=48, **bias)
    engine = pipeline.open(Florence2Settings(checkpoint=str(endless), device="cpu"))
    for quality in get_args(Quality):
        result = run(engine, job("ocr", quality=quality, max_tokens=4000))[0]
        assert result.error == "the answer did not end within 47 tokens"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
    ],
)
def test_a_bad_frame_is_an_error_for_that_job_alone(engine: ReferenceEngine, image: Any) -> None:
    bad, good = run(engine, job("caption", image), job("caption"))
    assert bad.outcome == "error"
    assert "is not a BGR picture" in (bad.error or "")
    assert good.outcome == "ok"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((1, 1, 3), 90, np.uint8), "too narrow: 1x1"),
        (np.full((1, 8000, 3), 90, np.uint8), "too narrow: 8000x1"),
        (np.zeros((90, 160, 3), np.uint8), "all black"),
        (np.broadcast_to(np.uint8(90), (5761, 5760, 3)), "too large: 5760x5761"),
    ],
)
def test_a_frame_that_shows_nothing_is_an_error_for_that_job_alone(
    engine: ReferenceEngine, image: Any, words: str
) -> None:
    odd, usual = run(engine, job("caption", image), job("caption"))
    assert odd.outcome == "error"
    assert words in (odd.error or "")
    assert usual.outcome == "ok"


def test_a_prompt_that_is_too_long_is_an_error_for_that_job_alone(engine: ReferenceEngine) -> None:
    bad, good = run(engine, job("phrase_grounding", text="many words " * 100), job("caption"))
    assert bad.outcome == "error"
    assert "the prompt is too long" in (bad.error or "")
    assert good.outcome == "ok"


def test_a_row_that_breaks_its_batch_is_an_error_for_that_job_alone(engine: ReferenceEngine) -> None:
    """A second image token makes the whole batch fail inside the model."""
    broken = job("phrase_grounding")
    keys = broken.due.task.params.model_construct(text="a <image> b", quality="fast", max_tokens=50)
    broken = dataclasses.replace(
        broken, due=dataclasses.replace(broken.due, task=dataclasses.replace(broken.due.task, params=keys))
    )
    before, bad, after = run(engine, job("caption"), broken, job("caption", picture(3)))
    assert bad.outcome == "error"
    assert "the model failed" in (bad.error or "")
    assert [before.outcome, after.outcome] == ["ok", "ok"]
    assert after.answer == run(engine, job("caption", picture(3)))[0].answer


def test_a_lost_device_is_not_hidden(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(rows: list[Row], quality: Quality) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(engine, "generate", lost)
    with pytest.raises(torch.AcceleratorError):
        run(engine, job("caption"))


def test_banned_phrases_come_from_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "free"))
    (path / "processor_config.json").unlink()
    opened: Any = pipeline.open(Florence2Settings(checkpoint=str(path), device="cpu", engine="plain"))
    assert opened._checkpoint.banned_phrases == frozenset()
