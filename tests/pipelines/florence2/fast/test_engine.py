"""The fast engine compared with the reference engine, its drafts, and its failures."""

from __future__ import annotations

import gc
import json
import math
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.fast import logits as logits_module
from pipelines.florence2.fast import memory_budget
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.image_cache import CACHED_FRAMES
from pipelines.florence2.fast.logits import NEAR_BINS, LogitsProcessor
from pipelines.florence2.fast.scheduler import RECOVERY
from pipelines.florence2.pipeline import Florence2Settings, open_engine
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.tasks import SPECS, Quality
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Answer, Engine, Job, Result
from tests.support.checkpoints import (
    assert_same,
    build_checkpoint,
    make_image,
    make_job,
    scores,
    shapes,
    without_scores,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "without the ban of repeats": {"no_repeat_ngram_size": 0},
    "untied head": {"tied": False},
    "no forced start": {"forced_bos_token_id": None},
    "beams to the end": {"early_stopping": False},
    "canonical beams": {"early_stopping": "never", "length_penalty": 0.6},
}


def open_checkpoint(path: Path | None, dtype: str = "float32") -> Checkpoint:
    return load(open_folder(str(path) if path else None), "cpu", dtype)


def run_reference(engine: Engine, jobs: Sequence[Job]) -> list[Result]:
    engine.admit(jobs)
    results = {id(result.job): result for result in engine.step()}
    return [results[id(job)] for job in jobs]


def run_in_flight(engine: Engine, jobs: Sequence[Job], at_once: int = 3) -> list[Result]:
    """Admit a few jobs at each step, next to running ones; return results in the order of the jobs."""
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(at_once, engine.free(), len(waiting))
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        for result in engine.step():
            assert id(result.job) not in results, "one result each"
            results[id(result.job)] = result
    return [results[id(job)] for job in jobs]


def all_tasks(rounds: int = 1, **params: Any) -> list[Job]:
    return [make_job(task, make_image(seed), **params) for seed, task in enumerate(list(SPECS) * rounds)]


@pytest.fixture(scope="module")
def fast(checkpoint: Path) -> FastEngine:
    return FastEngine(open_checkpoint(checkpoint), 16)


@pytest.fixture(scope="module")
def truth(engine: ReferenceEngine) -> list[Result]:
    """Results of the reference engine for `all_tasks()`."""
    return run_reference(engine, all_tasks())


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_equal_reference_engine(tmp_path: Path, variant: str) -> None:
    path = build_checkpoint(tmp_path / "small", **VARIANTS[variant])
    plain, fast = ReferenceEngine(open_checkpoint(path), 64), FastEngine(open_checkpoint(path), 7)
    for quality in ("fast", "official"):
        jobs = all_tasks(2 if variant == "as published" else 1, quality=quality)
        results = run_in_flight(fast, jobs)
        assert_same(results, run_reference(plain, jobs))
        assert any(0 < score < 1 for score in scores(results))
        assert {result.outcome for result in results} == {"ok", "empty"}


def test_generation_settings_in_model_config_are_used(checkpoint: Path, tmp_path: Path) -> None:
    """Old checkpoints have no generation_config.json."""
    path = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    (path / "generation_config.json").unlink()
    config = json.loads((path / "config.json").read_text())
    config["text_config"] |= {"num_beams": 3, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0}
    (path / "config.json").write_text(json.dumps(config))
    jobs = all_tasks(max_tokens=40)
    results = run_in_flight(FastEngine(open_checkpoint(path), 7), jobs)
    assert_same(results, run_reference(ReferenceEngine(open_checkpoint(path), 16), jobs))


def test_mixed_qualities_and_max_tokens_equal_single_jobs(fast: FastEngine, engine: ReferenceEngine) -> None:
    jobs = [
        make_job(task, make_image(seed), quality="official" if seed % 3 == 0 else "fast", max_tokens=4 + 3 * seed)
        for seed, task in enumerate(SPECS)
    ]
    alone = [run_reference(engine, [job])[0] for job in jobs]
    assert_same(run_in_flight(fast, jobs), alone)
    assert {result.outcome for result in alone} >= {"ok", "error"}


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the small model is not there")
def test_shipped_model_answers_equal_reference_engine() -> None:
    plain, fast = ReferenceEngine(open_checkpoint(None), 64), FastEngine(open_checkpoint(None), 8)
    for quality in ("fast", "official"):
        scenes = [World(900 + seed).scene(0.5).paint(320, 240) for seed in range(len(SPECS))]
        jobs = [make_job(task, image, quality=quality) for task, image in zip(SPECS, scenes, strict=True)]
        assert_same(run_in_flight(fast, jobs), run_reference(plain, jobs))


def test_bfloat16_checkpoint_answers(checkpoint: Path) -> None:
    results = run_in_flight(FastEngine(open_checkpoint(checkpoint, "bfloat16"), 8), all_tasks())
    assert {result.outcome for result in results} <= {"ok", "empty"}


def test_results_of_a_camera_keep_frame_order(fast: FastEngine) -> None:
    jobs = [make_job("caption", make_image(seed), stream=f"s{seed % 2}") for seed in range(12)]
    fast.admit(jobs)
    number = {id(job): place for place, job in enumerate(jobs)}
    came: list[int] = []
    while len(came) < 12:
        came += [number[id(result.job)] for result in fast.step()]
    for camera in (0, 1):
        of_camera = [place for place in came if place % 2 == camera]
        assert of_camera == sorted(of_camera)
    assert came != sorted(came), "the cameras do not wait for each other"
    assert fast.scheduler._in_order == {}


@pytest.mark.parametrize("quality", get_args(Quality))
def test_texts_and_shapes_have_scores(fast: FastEngine, quality: Quality) -> None:
    for result in run_in_flight(fast, all_tasks(quality=quality)):
        found = shapes(result.answer)
        assert all(shape.score is not None and 0 <= shape.score <= 1 for shape in found)
        assert (result.answer.score is not None) == bool(result.answer.text), "boxes have scores of their own"


def test_vision_tower_runs_once_per_frame(checkpoint: Path) -> None:
    engine = FastEngine(open_checkpoint(checkpoint), 16)
    image = make_image(3)
    run_in_flight(engine, [make_job(task, image) for task in SPECS])
    assert engine.image_cache.misses == 1
    run_in_flight(engine, [make_job("caption", image)])
    assert engine.image_cache.misses == 1, "a later job about the frame uses the cache"
    assert len(engine.image_cache) == 1
    del image
    gc.collect()
    assert len(engine.image_cache) == 0, "the entry is removed with the frame"


def test_rows_and_caches_are_released(checkpoint: Path) -> None:
    engine = FastEngine(open_checkpoint(checkpoint), 5)
    with pytest.raises(ValueError, match="6 jobs for 5 free places"):
        engine.admit(all_tasks()[:6])
    held = []
    for turn in range(12):
        jobs = all_tasks()
        held += jobs
        results = run_in_flight(engine, jobs, at_once=1 + turn % 5)
        assert len(results) == 15
        assert engine.free() == 5
        assert engine.step() == []
        assert len(engine.image_cache) <= CACHED_FRAMES
        assert engine.greedy.batch.active == 0
    assert engine.greedy.batch._buffers.own.shape[4] <= 128 + 64
    assert len(engine.greedy.drafts) == 15


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((1, 1, 3), 90, np.uint8), "too narrow: 1x1"),
        (np.full((1, 8000, 3), 90, np.uint8), "too narrow: 8000x1"),
        (np.zeros((90, 160, 3), np.uint8), "all black"),
        (np.broadcast_to(np.uint8(90), (5761, 5760, 3)), "too large: 5760x5761"),
        (np.zeros((10, 10), np.uint8), "is not a BGR picture"),
        (np.zeros((0, 10, 3), np.uint8), "is not a BGR picture"),
    ],
)
def test_bad_frame_fails_only_its_job(fast: FastEngine, image: Any, words: str) -> None:
    before, bad, after = run_in_flight(
        fast, [make_job("caption"), make_job("caption", image), make_job("ocr", make_image(2))]
    )
    assert bad.outcome == "error"
    assert words in (bad.error or "")
    assert [before.outcome, after.outcome] == ["ok", "ok"]


def test_too_long_prompt_fails_only_its_job(fast: FastEngine) -> None:
    bad, good = run_in_flight(fast, [make_job("phrase_grounding", text="many words " * 100), make_job("caption")])
    assert "the prompt is too long" in (bad.error or "")
    assert good.outcome == "ok"


def test_prompts_of_different_length_share_batch(fast: FastEngine, engine: ReferenceEngine) -> None:
    jobs = [make_job("phrase_grounding", make_image(n), text="a green car " * (1 + 5 * n)) for n in range(4)]
    assert_same(run_in_flight(fast, jobs), run_reference(engine, jobs))


@pytest.mark.parametrize("quality", get_args(Quality))
def test_answer_without_end_is_error(tmp_path: Path, quality: Quality) -> None:
    """Answers stop at the end of the position table, whatever max_tokens is."""
    endless = build_checkpoint(
        tmp_path / "endless", exponential_decay_length_penalty=None, forced_eos_token_id=None, suppress_tokens=[2]
    )
    engine = FastEngine(open_checkpoint(endless), 4)
    jobs = [make_job(task, make_image(n), max_tokens=4000, quality=quality) for n, task in enumerate(SPECS)]
    for result in run_in_flight(engine, jobs[:3]):
        assert result.outcome == "error"
        assert result.error == "the answer did not end within 127 tokens"
        assert result.answer == Answer()
    assert without_scores(run_in_flight(engine, jobs[:2])) == without_scores(
        run_reference(ReferenceEngine(open_checkpoint(endless), 4), jobs[:2])
    )


# -- drafts


def answers_of(engine: FastEngine, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[int]]]:
    """Run jobs and yield each with the answer tokens that the draft store keeps."""
    run_in_flight(engine, jobs)
    yield from stored_answers(engine, jobs)


def stored_answers(engine: FastEngine, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[int]]]:
    """Yield answered jobs with the answer tokens that the draft store keeps."""
    for job in jobs:
        yield job, engine.greedy.drafts._previous[job.due.stream, job.due.task.name].tokens


@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 0.0])
@pytest.mark.parametrize("at_once", [1, 3, 15])
def test_drafts_change_no_answer(checkpoint: Path, truth: list[Result], share: float, at_once: int) -> None:
    rng = random.Random(3)
    fast = FastEngine(open_checkpoint(checkpoint), 16)
    jobs = all_tasks()
    for job, tokens in list(answers_of(fast, jobs)):
        spoiled = [token if rng.random() < share else rng.randrange(4, 900) for token in tokens]
        fast.greedy.drafts.store((job.due.stream, job.due.task.name), spoiled, None)
    answered = run_in_flight(fast, jobs, at_once)
    assert_same(answered, truth)
    drafts = [result.draft for result in answered if result.draft and result.draft[0]]
    assert len(drafts) > 5
    if share == 1.0:
        assert {accepted / checked for checked, accepted in drafts} == {1.0}
    assert_same(run_in_flight(fast, jobs, at_once), truth)


def test_right_drafts_save_steps(checkpoint: Path) -> None:
    fast, jobs = FastEngine(open_checkpoint(checkpoint), 16), all_tasks()

    def steps() -> int:
        fast.admit(jobs)
        count = done = 0
        while done < len(jobs):
            done += len(fast.step())
            count += 1
        return count

    first = steps()
    for _ in range(3):
        steps()
    assert steps() <= 16 < first, "one step for each frame's start, and no more"


def test_unchanged_answer_takes_one_pass(checkpoint: Path) -> None:
    fast, job = FastEngine(open_checkpoint(checkpoint), 4), make_job("object_detection")
    counted = LimitedDecoder(fast.decoder, 4, ValueError())
    fast.greedy.batch._decoder = counted  # type: ignore[assignment]
    answers = [run_in_flight(fast, [job])[0] for _ in range(4)]
    assert_same(answers[1:], answers[:1] * 3)
    before = counted.calls
    run_in_flight(fast, [job])
    assert counted.calls == before + 1


def test_max_tokens_holds_with_draft(checkpoint: Path) -> None:
    fast = FastEngine(open_checkpoint(checkpoint), 16)
    for job, tokens in list(answers_of(fast, all_tasks())):
        whole = len(tokens) + len(fast.logits_processor.start)  # without the start token, but with the end
        short = make_job(job.due.task.task, job.frame.image, max_tokens=whole - 1)
        exact = make_job(job.due.task.task, job.frame.image, max_tokens=whole)
        assert run_in_flight(fast, [short])[0].error == f"the answer did not end within {whole - 1} tokens"
        assert run_in_flight(fast, [exact])[0].outcome in ("ok", "empty")


@pytest.mark.parametrize("value", ["off", False])
def test_drafts_can_be_disabled(checkpoint: Path, value: Any) -> None:
    engine: Any = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", drafts=value))
    run_in_flight(engine, all_tasks())
    assert len(engine.greedy.drafts) == 0


def test_draft_setting_accepts_earlier_values() -> None:
    for value, mode in {True: "exact", False: "off", "exact": "exact", "near": "near", "off": "off"}.items():
        assert Florence2Settings.model_validate({"drafts": value}).drafts == mode
    assert Florence2Settings().drafts == "exact"
    with pytest.raises(ValidationError, match="'exact', 'near' or 'off'"):
        Florence2Settings.model_validate({"drafts": "always"})


PLACES = [name for name, spec in SPECS.items() if spec.result != "text"]
"""Tasks with boxes, polygons or quads in their answers."""


def near_locations(checkpoint: Checkpoint, job: Job, tokens: Sequence[int]) -> int:
    """Return how many tokens of an answer are not the best ones behind the tokens before them, by transformers.

    Asserts that each of those is a location next to the best one and nearly as probable.
    """
    processor = LogitsProcessor(checkpoint.generation, checkpoint.first_location, torch.device("cpu"))
    engine = ReferenceEngine(checkpoint, 1)
    row, start = engine.prepare(job), len(processor.start)
    answer = torch.tensor([[*processor.start, *tokens, int(processor.ends[0])]])
    with torch.inference_mode():
        logits = engine.network(
            input_ids=torch.tensor([row.ids]), pixel_values=row.pixels[None], decoder_input_ids=answer[:, :-1]
        ).logits.float()
        positions = torch.arange(start - 1, answer.shape[1] - 1)[None]
        visible = torch.arange(answer.shape[1]) <= positions[..., None]
        history = torch.nn.functional.pad(answer, (processor.lead, 0))
        scores = processor.adapt(logits[:, start - 1 :], history, positions, visible)[0]
    chosen, best = answer[0, start:].tolist(), scores.argmax(-1).tolist()
    others = [place for place, token in enumerate(chosen) if token != best[place]]
    for place in others:
        assert {chosen[place], best[place]} <= set(processor.locations)
        assert abs(chosen[place] - best[place]) <= NEAR_BINS
        assert scores[place, chosen[place]] >= scores[place, best[place]] + math.log(logits_module.NEAR_RATIO) - 1e-3
    return len(others)


def test_near_drafts_do_not_creep(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draft is the last answer with all locations one bin further, and any probability is near enough."""
    monkeypatch.setattr(logits_module, "NEAR_RATIO", 1e-30)
    model = open_checkpoint(checkpoint)
    fast, jobs = FastEngine(model, 16, "near"), [make_job(task, make_image(n)) for n, task in enumerate(PLACES)]
    locations = fast.logits_processor.locations
    results = run_in_flight(fast, jobs)
    assert not any(result.near for result in results), "there was no draft"
    total = 0
    for _ in range(3):
        for job in jobs:
            key = job.due.stream, job.due.task.name
            tokens = fast.greedy.drafts._previous[key].tokens
            shifted = [token + 1 if token in locations and token + 1 in locations else token for token in tokens]
            fast.greedy.drafts.store(key, shifted, None)
        results = run_in_flight(fast, jobs)
        for (job, tokens), result in zip(stored_answers(fast, jobs), results, strict=True):
            assert near_locations(model, job, tokens) == result.near
            total += result.near
    assert total > 50


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the small model is not there")
def test_drafts_on_slowly_moving_scene() -> None:
    """Exact drafts change no answer; near ones change locations only, and count them."""
    model = open_checkpoint(None)
    off, exact, near = FastEngine(model, 16, "off"), FastEngine(model, 16, "exact"), FastEngine(model, 16, "near")
    world, tasks = World(700_003), [*PLACES, "caption"]
    kept = drafted = 0
    for number in range(4):
        image = world.scene(1 + 0.02 * number).paint(320, 240)
        jobs = [make_job(task, image) for task in tasks]
        plain = run_in_flight(off, jobs)
        same = run_in_flight(exact, jobs)
        assert_same(same, plain)
        drafted += sum(result.draft[1] for result in same if result.draft)
        results = run_in_flight(near, jobs)
        for (job, tokens), result in zip(stored_answers(near, jobs), results, strict=True):
            assert near_locations(model, job, tokens) == result.near
            kept += result.near
    assert drafted > 60
    assert kept > 0


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the small model is not there")
def test_moved_objects_take_few_passes() -> None:
    """Each pass also corrects the locations behind the first one that has moved."""
    fast = FastEngine(open_checkpoint(None), 16)
    jobs = [make_job(task, World(700_003).scene(1).paint(320, 240)) for task in PLACES[:3]]
    truth = run_in_flight(fast, jobs)
    locations = fast.logits_processor.locations
    moved = 0
    for job, tokens in list(stored_answers(fast, jobs)):
        shifted = [token + 4 if token in locations[:-4] else token for token in tokens]
        fast.greedy.drafts.store((job.due.stream, job.due.task.name), shifted, None)
        moved += sum(map(int.__ne__, shifted, tokens))
    counted = LimitedDecoder(fast.decoder, 4, ValueError())
    fast.greedy.batch._decoder = counted  # type: ignore[assignment]
    assert_same(run_in_flight(fast, jobs), truth)
    assert counted.calls < moved / 3


# -- memory and failures


class LimitedDecoder:
    """A decoder that raises an error for more than `rows` rows."""

    def __init__(self, decoder: Any, rows: int, error: Exception) -> None:
        self._decoder, self._rows, self._error = decoder, rows, error
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, ids: torch.Tensor, *args: Any, **keys: Any) -> Any:
        self.calls += 1
        if len(ids) > self._rows:
            raise self._error
        return self._decoder(ids, *args, **keys)


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_memory_shortage_halves_batch_until_recovery(
    checkpoint: Path, truth: list[Result], shortage: Exception
) -> None:
    fast = FastEngine(open_checkpoint(checkpoint), 8)
    whole = fast.greedy.batch._decoder
    fast.greedy.batch._decoder = LimitedDecoder(whole, 4, shortage)  # type: ignore[assignment]
    jobs = all_tasks()
    assert_same(run_in_flight(fast, jobs, at_once=8), truth)
    assert fast.scheduler.limit <= 4
    fast.greedy.batch._decoder = whole
    for _ in range(1 + 3 * RECOVERY // len(jobs)):
        run_in_flight(fast, jobs)
    assert fast.scheduler.limit == 8


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_memory_shortage_before_decoder_is_retried(checkpoint: Path, truth: list[Result], part: str) -> None:
    """The shortage happens once, on the second frame, while other answers are running."""
    fast = FastEngine(open_checkpoint(checkpoint), 8)
    owner: Any = fast.image_cache if part == "vision" else fast
    whole = getattr(owner, part)
    calls: list[Any] = []

    def short(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*args)

    setattr(owner, part, short)
    jobs = all_tasks()
    assert_same(run_in_flight(fast, jobs, at_once=8), truth)
    assert len(calls) == len(jobs) + 1
    assert (fast.free(), fast.greedy.batch.active) == (fast.scheduler.capacity, 0)


@pytest.mark.parametrize("quality", get_args(Quality))
def test_lasting_memory_shortage_is_error(checkpoint: Path, quality: Quality) -> None:
    fast = FastEngine(open_checkpoint(checkpoint), 4)
    limited: Any = LimitedDecoder(fast.decoder, 0, SHORTAGES[0])
    fast.decoder = fast.greedy.batch._decoder = limited
    results = run_in_flight(fast, all_tasks(quality=quality))
    assert {result.error for result in results} == {"the model failed: not enough memory"}
    assert (fast.free(), fast.greedy.batch.active) == (4, 0)


def test_job_that_fails_alone_is_error(checkpoint: Path) -> None:
    fast = FastEngine(open_checkpoint(checkpoint), 4)
    fast.greedy.batch._decoder = LimitedDecoder(fast.greedy.batch._decoder, 0, ValueError("odd"))  # type: ignore[assignment]
    results = run_in_flight(fast, all_tasks())
    reason = r"the model failed: internal error [0-9a-f]{6}: the log has the details"
    assert all(re.fullmatch(reason, result.error or "") for result in results)
    assert fast.free() == 4


def test_lost_device_error_is_raised(checkpoint: Path) -> None:
    fast = FastEngine(open_checkpoint(checkpoint), 4)
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    fast.greedy.batch._decoder = LimitedDecoder(fast.greedy.batch._decoder, 0, lost)  # type: ignore[assignment]
    with pytest.raises(torch.AcceleratorError):
        run_in_flight(fast, [make_job("caption")])


def test_capacity_is_bounded_by_free_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = open_checkpoint(checkpoint)
    fast, beams = FastEngine(taken, 1), taken.generation.num_beams
    assert beams
    assert beams > 1
    needs = memory_budget.forecast(
        fast.decoder, fast.image_cache.vision, taken.architecture.text, 128, beams, CACHED_FRAMES, 1
    )
    monkeypatch.setattr(
        memory_budget, "available", lambda device, share: int(needs.total(3) / memory_budget.MARGIN) + needs.row // 2
    )
    assert FastEngine(taken, 8).free() == 3
    monkeypatch.setattr(memory_budget, "available", lambda device, share: needs.work)
    with pytest.raises(ConfigError, match=r"needs .* GB more memory for one answer at a time"):
        FastEngine(taken, 8)


def test_free_memory_is_positive() -> None:
    assert memory_budget.available(torch.device("cpu")) > 1e6


# -- choice of the engine


def test_engine_setting_selects_engine(checkpoint: Path, tmp_path: Path) -> None:
    def kind(path: Path, **keys: Any) -> type:
        return type(open_engine(Florence2Settings(checkpoint=str(path), device="cpu", **keys)))

    assert kind(checkpoint) is FastEngine
    assert kind(checkpoint, engine="plain") is ReferenceEngine
    strange = build_checkpoint(tmp_path / "strange", repetition_penalty=1.5)
    assert kind(strange) is ReferenceEngine
    with pytest.raises(ConfigError, match="sets repetition_penalty"):
        kind(strange, engine="fast")
