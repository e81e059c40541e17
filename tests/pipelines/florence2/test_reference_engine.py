"""The reference engine on a small random checkpoint: types, batches, failures, equality with transformers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from pipelines.florence2.grounded import GROUNDED_SPECS
from pipelines.florence2.pipeline import Florence2Settings, open_engine, pipeline
from pipelines.florence2.reference_engine import ReferenceEngine, Row
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS, Quality, location_tokens
from streamer.types import Engine, Job, Pipeline, Result
from tests.support.checkpoints import assert_same, build_checkpoint, make_image, make_job

FILLED = {
    "text": {"text"},
    "boxes": {"boxes"},
    "polygons": {"polygons"},
    "quads": {"quads"},
    "boxes_or_polygons": {"boxes", "polygons"},
}


def run(engine: Engine, *jobs: Job) -> list[Result]:
    """Return all results, in the order of the jobs."""
    engine.admit(jobs)
    results = engine.step()
    return [next(result for result in results if result.job is wanted) for wanted in jobs]


def library_prompt(job: Job) -> str:
    """Return the job's prompt for the processor of transformers."""
    params = job.due.task.params
    given = (
        location_tokens(*dataclasses.astuple(params.region))
        if hasattr(params, "region")
        else getattr(params, "text", "")
    )
    return FLORENCE_TASKS[job.due.task.task].token + given


def ended(tokens: list[int]) -> list[int]:
    """Return tokens without padding."""
    while tokens[-1] == 1:
        tokens = tokens[:-1]
    return tokens


def test_pipeline_and_engine_satisfy_protocols(engine: ReferenceEngine) -> None:
    contract: Pipeline = pipeline
    kept: Engine = engine
    assert set(contract.tasks()) == set(SPECS) | set(GROUNDED_SPECS)
    assert kept.model == "small"


@pytest.mark.parametrize("quality", get_args(Quality))
def test_one_batch_answers_all_tasks_with_their_types(engine: ReferenceEngine, quality: Quality) -> None:
    jobs = [make_job(task, make_image(seed), quality=quality) for seed, task in enumerate(SPECS)]
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


def test_answers_depend_on_image_and_prompt(engine: ReferenceEngine) -> None:
    results = run(
        engine,
        *(make_job("caption", make_image(seed)) for seed in range(6)),
        make_job("detailed_caption", make_image(0)),
    )
    assert len({result.answer.text for result in results}) > 3


@pytest.mark.parametrize("quality", get_args(Quality))
def test_tokens_equal_transformers(engine: ReferenceEngine, processor: Any, quality: Quality) -> None:
    jobs = [make_job(task, make_image(seed)) for seed, task in enumerate(SPECS)]
    images = [Pil.fromarray(job.frame.image[..., ::-1].copy()) for job in jobs]
    inputs = processor(text=[library_prompt(job) for job in jobs], images=images, padding=True, return_tensors="pt")
    greedy = {"num_beams": 1, "early_stopping": False} if quality == "fast" else {}
    theirs = engine.network.generate(**inputs, **greedy, max_new_tokens=100)
    rows = [
        dataclasses.replace(engine.prepare(job), pixels=pixels)
        for job, pixels in zip(jobs, inputs.pixel_values, strict=True)
    ]
    ours = engine.generate(rows, quality)
    assert [ended(generation.tokens) for generation in ours] == [ended(tokens) for tokens in theirs.tolist()]
    assert all(generation.tokens[:2] == [2, 0] for generation in ours), "the start is forced"


def test_fast_and_official_tokens_differ(engine: ReferenceEngine) -> None:
    rows = [engine.prepare(make_job(task, make_image(seed))) for seed, task in enumerate(SPECS)]
    assert engine.generate(rows, "fast") != engine.generate(rows, "official")


def test_batch_equals_single_jobs(engine: ReferenceEngine) -> None:
    jobs = [make_job(task, make_image(seed), stream=f"s{seed % 3}") for seed, task in enumerate(SPECS)]
    assert_same(run(engine, *jobs), [run(engine, job)[0] for job in jobs])


def test_qualities_share_step_but_not_batch(engine: ReferenceEngine) -> None:
    results = run(engine, make_job("caption"), make_job("ocr", quality="official"), make_job("caption", make_image(3)))
    assert [result.batch for result in results] == [2, 1, 2]


def test_free_counts_admitted_jobs(engine: ReferenceEngine) -> None:
    assert engine.step() == []
    assert engine.free() == 32
    engine.admit([make_job("caption")] * 3)
    assert engine.free() == 29
    with pytest.raises(ValueError, match="30 jobs for 29 free places"):
        engine.admit([make_job("caption")] * 30)
    assert len(engine.step()) == 3
    assert engine.free() == 32


def test_answer_without_end_fails_only_its_job(engine: ReferenceEngine) -> None:
    for quality in get_args(Quality):
        short, whole = run(engine, make_job("ocr", max_tokens=2, quality=quality), make_job("ocr", quality=quality))
        assert short.outcome == "error"
        assert short.error == "the answer did not end within 2 tokens"
        assert short.answer.is_empty
        assert whole.outcome in ("ok", "empty")


def test_max_tokens_is_exact(engine: ReferenceEngine) -> None:
    """An answer of n tokens, its end included, passes max_tokens=n and fails max_tokens=n-1."""
    job = make_job("caption")
    length = len(ended(engine.generate([engine.prepare(job)], "fast")[0].tokens)) - 1
    other = make_job("more_detailed_caption", make_image(5))
    assert run(engine, make_job("caption", max_tokens=length), other)[0].outcome == "ok"
    assert run(engine, make_job("caption", max_tokens=length - 1), other)[0].outcome == "error"
    assert run(engine, make_job("caption", max_tokens=length - 1))[0].outcome == "error"


def test_answer_never_exceeds_position_table(tmp_path: Path) -> None:
    bias: dict[str, Any] = {"exponential_decay_length_penalty": None, "sequence_bias": [[[2], -1e4]]}
    endless = build_checkpoint(tmp_path / "endless", positions=48, **bias)
    engine = pipeline.open(Florence2Settings(checkpoint=str(endless), device="cpu"))
    for quality in get_args(Quality):
        result = run(engine, make_job("ocr", quality=quality, max_tokens=4000))[0]
        assert result.error == "the answer did not end within 47 tokens"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
    ],
)
def test_bad_frame_fails_only_its_job(engine: ReferenceEngine, image: Any) -> None:
    bad, good = run(engine, make_job("caption", image), make_job("caption"))
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
def test_frame_showing_nothing_fails_only_its_job(engine: ReferenceEngine, image: Any, words: str) -> None:
    odd, usual = run(engine, make_job("caption", image), make_job("caption"))
    assert odd.outcome == "error"
    assert words in (odd.error or "")
    assert usual.outcome == "ok"


def test_too_long_prompt_fails_only_its_job(engine: ReferenceEngine) -> None:
    bad, good = run(engine, make_job("phrase_grounding", text="many words " * 100), make_job("caption"))
    assert bad.outcome == "error"
    assert "the prompt is too long" in (bad.error or "")
    assert good.outcome == "ok"


def test_row_that_breaks_batch_fails_only_its_job(engine: ReferenceEngine) -> None:
    """A second image token makes the whole batch fail inside the model."""
    broken = make_job("phrase_grounding")
    keys = broken.due.task.params.model_construct(text="a <image> b", quality="fast", max_tokens=50)
    broken = dataclasses.replace(
        broken, due=dataclasses.replace(broken.due, task=dataclasses.replace(broken.due.task, params=keys))
    )
    before, bad, after = run(engine, make_job("caption"), broken, make_job("caption", make_image(3)))
    assert bad.outcome == "error"
    assert "the model failed" in (bad.error or "")
    assert [before.outcome, after.outcome] == ["ok", "ok"]
    assert after.answer == run(engine, make_job("caption", make_image(3)))[0].answer


def test_lost_device_error_is_raised(engine: ReferenceEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(rows: list[Row], quality: Quality) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(engine, "generate", lost)
    with pytest.raises(torch.AcceleratorError):
        run(engine, make_job("caption"))


def test_banned_phrases_come_from_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "free"))
    (path / "processor_config.json").unlink()
    opened: Any = open_engine(Florence2Settings(checkpoint=str(path), device="cpu", engine="plain"))
    assert opened._checkpoint.banned_phrases == frozenset()
