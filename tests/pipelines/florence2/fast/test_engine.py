"""The fast engine against the plain one, and what must never go wrong in it."""

from __future__ import annotations

import gc
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.fast import memory_budget
from pipelines.florence2.fast.engine import CACHED_FRAMES, FastEngine
from pipelines.florence2.fast.logits import effective
from pipelines.florence2.fast.scheduler import RECOVERY
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.tasks import SPECS, Quality
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Answer, Engine, Job, Result
from tests.support.checkpoints import assert_same, build, job, picture, said, scores, shapes

VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "without the ban of repeats": {"no_repeat_ngram_size": 0},
    "untied head": {"tied": False},
    "no forced start": {"forced_bos_token_id": None},
    "beams to the end": {"early_stopping": False},
    "canonical beams": {"early_stopping": "never", "length_penalty": 0.6},
}


def opened(path: Path | None, dtype: str = "float32") -> Checkpoint:
    return load(open_folder(str(path) if path else None), "cpu", dtype)


def plainly(engine: Engine, jobs: Sequence[Job]) -> list[Result]:
    engine.admit(jobs)
    results = {id(result.job): result for result in engine.step()}
    return [results[id(of)] for of in jobs]


def in_flight(engine: Engine, jobs: Sequence[Job], at_once: int = 3) -> list[Result]:
    """Jobs admitted a few at each step, next to others that are at work already."""
    waiting = list(jobs)
    results: dict[int, Result] = {}
    while len(results) < len(jobs):
        count = min(at_once, engine.free(), len(waiting))
        engine.admit(waiting[:count])
        waiting = waiting[count:]
        for result in engine.step():
            assert id(result.job) not in results, "one result each"
            results[id(result.job)] = result
    return [results[id(of)] for of in jobs]


def all_tasks(rounds: int = 1, **params: Any) -> list[Job]:
    return [job(task, picture(seed), **params) for seed, task in enumerate(list(SPECS) * rounds)]


@pytest.fixture(scope="module")
def fast(checkpoint: Path) -> FastEngine:
    return FastEngine(opened(checkpoint), 16)


@pytest.fixture(scope="module")
def truth(engine: ReferenceEngine) -> list[Result]:
    """What the plain engine answers to `all_tasks()`."""
    return plainly(engine, all_tasks())


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_equal_the_plain_engines(tmp_path: Path, variant: str) -> None:
    path = build(tmp_path / "small", **VARIANTS[variant])
    plain, fast = ReferenceEngine(opened(path), 64), FastEngine(opened(path), 7)
    for quality in ("fast", "official"):
        jobs = all_tasks(2 if variant == "as published" else 1, quality=quality)
        results = in_flight(fast, jobs)
        assert_same(results, plainly(plain, jobs))
        assert any(0 < score < 1 for score in scores(results))
        assert {result.outcome for result in results} == {"ok", "empty"}


def test_generation_settings_in_the_models_config(checkpoint: Path, tmp_path: Path) -> None:
    """Old checkpoints have no file of their own for them."""
    path = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    (path / "generation_config.json").unlink()
    config = json.loads((path / "config.json").read_text())
    config["text_config"] |= {"num_beams": 3, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0}
    (path / "config.json").write_text(json.dumps(config))
    jobs = all_tasks(max_tokens=40)
    results = in_flight(FastEngine(opened(path), 7), jobs)
    assert_same(results, plainly(ReferenceEngine(opened(path), 16), jobs))


def test_qualities_and_caps_are_mixed(fast: FastEngine, engine: ReferenceEngine) -> None:
    jobs = [
        job(task, picture(seed), quality="official" if seed % 3 == 0 else "fast", max_tokens=4 + 3 * seed)
        for seed, task in enumerate(SPECS)
    ]
    alone = [plainly(engine, [of])[0] for of in jobs]
    assert_same(in_flight(fast, jobs), alone)
    assert {result.outcome for result in alone} >= {"ok", "error"}


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the small model is not there")
def test_the_shipped_models_answers_equal_the_plain_engines() -> None:
    plain, fast = ReferenceEngine(opened(None), 64), FastEngine(opened(None), 8)
    for quality in ("fast", "official"):
        scenes = [World(900 + seed).scene(0.5).paint(320, 240) for seed in range(len(SPECS))]
        jobs = [job(task, image, quality=quality) for task, image in zip(SPECS, scenes, strict=True)]
        assert_same(in_flight(fast, jobs), plainly(plain, jobs))


def test_bfloat16_answers(checkpoint: Path) -> None:
    results = in_flight(FastEngine(opened(checkpoint, "bfloat16"), 8), all_tasks())
    assert {result.outcome for result in results} <= {"ok", "empty"}


def test_a_cameras_answers_come_in_the_order_of_its_frames(fast: FastEngine) -> None:
    jobs = [job("caption", picture(seed), stream=f"s{seed % 2}") for seed in range(12)]
    fast.admit(jobs)
    number = {id(of): place for place, of in enumerate(jobs)}
    came: list[int] = []
    while len(came) < 12:
        came += [number[id(result.job)] for result in fast.step()]
    for camera in (0, 1):
        of_camera = [place for place in came if place % 2 == camera]
        assert of_camera == sorted(of_camera)
    assert came != sorted(came), "the cameras do not wait for each other"
    assert fast.scheduler._in_order == {}


@pytest.mark.parametrize("quality", get_args(Quality))
def test_each_text_and_each_shape_has_a_score(fast: FastEngine, quality: Quality) -> None:
    for result in in_flight(fast, all_tasks(quality=quality)):
        found = shapes(result.answer)
        assert all(shape.score is not None and 0 <= shape.score <= 1 for shape in found)
        assert (result.answer.score is not None) == bool(result.answer.text), "of boxes each has its own"


def test_a_frame_is_looked_at_once(checkpoint: Path) -> None:
    engine = FastEngine(opened(checkpoint), 16)
    image = picture(3)
    in_flight(engine, [job(task, image) for task in SPECS])
    assert engine.image_cache.misses == 1
    in_flight(engine, [job("caption", image)])
    assert engine.image_cache.misses == 1, "a later question finds it"
    assert len(engine.image_cache) == 1
    del image
    gc.collect()
    assert len(engine.image_cache) == 0, "and it goes with the frame"


def test_places_and_caches_are_accounted_for(checkpoint: Path) -> None:
    engine = FastEngine(opened(checkpoint), 5)
    with pytest.raises(ValueError, match="6 jobs for 5 free places"):
        engine.admit(all_tasks()[:6])
    held = []
    for turn in range(12):
        jobs = all_tasks()
        held += jobs
        results = in_flight(engine, jobs, at_once=1 + turn % 5)
        assert len(results) == 15
        assert engine.free() == 5
        assert engine.step() == []
        assert len(engine.image_cache) <= CACHED_FRAMES
        assert engine.greedy.batch.active == 0
    assert engine.greedy.batch._own.shape[4] <= 128 + 64
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
def test_a_bad_frame_is_an_error_for_that_job_alone(fast: FastEngine, image: Any, words: str) -> None:
    before, bad, after = in_flight(fast, [job("caption"), job("caption", image), job("ocr", picture(2))])
    assert bad.outcome == "error"
    assert words in (bad.error or "")
    assert [before.outcome, after.outcome] == ["ok", "ok"]


def test_a_prompt_that_is_too_long_is_an_error_for_that_job_alone(fast: FastEngine) -> None:
    bad, good = in_flight(fast, [job("phrase_grounding", text="many words " * 100), job("caption")])
    assert "the prompt is too long" in (bad.error or "")
    assert good.outcome == "ok"


def test_long_and_short_prompts_stand_side_by_side(fast: FastEngine, engine: ReferenceEngine) -> None:
    jobs = [job("phrase_grounding", picture(n), text="a green car " * (1 + 5 * n)) for n in range(4)]
    assert_same(in_flight(fast, jobs), plainly(engine, jobs))


@pytest.mark.parametrize("quality", get_args(Quality))
def test_an_answer_without_an_end_is_cut_and_is_an_error(tmp_path: Path, quality: Quality) -> None:
    """At the end of the position table, however many tokens were allowed."""
    endless = build(
        tmp_path / "endless", exponential_decay_length_penalty=None, forced_eos_token_id=None, suppress_tokens=[2]
    )
    engine = FastEngine(opened(endless), 4)
    jobs = [job(task, picture(n), max_tokens=4000, quality=quality) for n, task in enumerate(SPECS)]
    for result in in_flight(engine, jobs[:3]):
        assert result.outcome == "error"
        assert result.error == "the answer did not end within 127 tokens"
        assert result.answer == Answer()
    assert said(in_flight(engine, jobs[:2])) == said(plainly(ReferenceEngine(opened(endless), 4), jobs[:2]))


# -- drafts


def answers_of(engine: FastEngine, jobs: Sequence[Job]) -> Iterator[tuple[Job, list[int]]]:
    """What the engine remembers of each job after having answered it."""
    in_flight(engine, jobs)
    for of in jobs:
        yield of, engine.greedy.drafts._previous[of.due.stream, of.due.task.name].tokens


@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 0.0])
@pytest.mark.parametrize("at_once", [1, 3, 15])
def test_drafts_change_no_answer(checkpoint: Path, truth: list[Result], share: float, at_once: int) -> None:
    rng = random.Random(3)
    fast = FastEngine(opened(checkpoint), 16)
    jobs = all_tasks()
    for of, tokens in list(answers_of(fast, jobs)):
        spoiled = [token if rng.random() < share else rng.randrange(4, 900) for token in tokens]
        fast.greedy.drafts.store((of.due.stream, of.due.task.name), spoiled, None)
    assert fast.greedy.drafts.stats.answers == 0
    answered = in_flight(fast, jobs, at_once)
    assert_same(answered, truth)
    assert fast.greedy.drafts.stats.answers > 5
    if share == 1.0:
        assert fast.greedy.drafts.stats.acceptance == 1.0
        assert {result.draft[1] / result.draft[0] for result in answered if result.draft and result.draft[0]} == {1.0}
    assert sum(result.draft[0] for result in answered if result.draft) == fast.greedy.drafts.stats.checked
    assert_same(in_flight(fast, jobs, at_once), truth)


def test_a_right_draft_saves_steps(checkpoint: Path) -> None:
    fast, jobs = FastEngine(opened(checkpoint), 16), all_tasks()

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


def test_a_cap_holds_with_a_draft(checkpoint: Path) -> None:
    fast = FastEngine(opened(checkpoint), 16)
    for of, tokens in list(answers_of(fast, all_tasks())):
        whole = len(tokens) + len(fast.logits_processor.start)  # without the start token, but with the end
        short = job(of.due.task.task, of.frame.image, max_tokens=whole - 1)
        exact = job(of.due.task.task, of.frame.image, max_tokens=whole)
        assert in_flight(fast, [short])[0].error == f"the answer did not end within {whole - 1} tokens"
        assert in_flight(fast, [exact])[0].outcome in ("ok", "empty")


def test_drafts_can_be_switched_off(checkpoint: Path) -> None:
    engine: Any = pipeline.open(Florence2Settings(checkpoint=str(checkpoint), device="cpu", drafts=False))
    in_flight(engine, all_tasks())
    assert len(engine.greedy.drafts) == 0


# -- memory and failures


class Short:
    """A decoder that cannot take more than some rows at once."""

    def __init__(self, decoder: Any, rows: int, error: Exception) -> None:
        self._decoder, self._rows, self._error = decoder, rows, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, ids: torch.Tensor, *args: Any, **keys: Any) -> Any:
        if len(ids) > self._rows:
            raise self._error
        return self._decoder(ids, *args, **keys)


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_shortage_halves_the_batch_which_grows_back(
    checkpoint: Path, truth: list[Result], shortage: Exception
) -> None:
    fast = FastEngine(opened(checkpoint), 8)
    whole = fast.greedy.batch._decoder
    fast.greedy.batch._decoder = Short(whole, 4, shortage)  # type: ignore[assignment]
    jobs = all_tasks()
    assert_same(in_flight(fast, jobs, at_once=8), truth)
    assert fast.scheduler.limit <= 4
    fast.greedy.batch._decoder = whole
    for _ in range(1 + 3 * RECOVERY // len(jobs)):
        in_flight(fast, jobs)
    assert fast.scheduler.limit == 8


@pytest.mark.parametrize("part", ["vision", "encoder"])
def test_a_shortage_before_the_decoder_is_tried_again(checkpoint: Path, truth: list[Result], part: str) -> None:
    """Once, on the second frame, while others are being written."""
    fast = FastEngine(opened(checkpoint), 8)
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
    assert_same(in_flight(fast, jobs, at_once=8), truth)
    assert len(calls) == len(jobs) + 1
    assert (fast.free(), fast.greedy.batch.active) == (fast.scheduler.capacity, 0)


def test_a_shortage_that_stays_is_an_error(checkpoint: Path) -> None:
    fast = FastEngine(opened(checkpoint), 4)
    fast.greedy.batch._decoder = Short(fast.greedy.batch._decoder, 0, SHORTAGES[0])  # type: ignore[assignment]
    results = in_flight(fast, all_tasks())
    assert {result.error for result in results} == {"the model failed: CUDA out of memory"}
    assert (fast.free(), fast.greedy.batch.active) == (4, 0)


def test_what_fails_alone_is_an_error(checkpoint: Path) -> None:
    fast = FastEngine(opened(checkpoint), 4)
    fast.greedy.batch._decoder = Short(fast.greedy.batch._decoder, 0, ValueError("odd"))  # type: ignore[assignment]
    results = in_flight(fast, all_tasks())
    assert {result.error for result in results} == {"the model failed: odd"}
    assert fast.free() == 4


def test_a_lost_device_is_not_hidden(checkpoint: Path) -> None:
    fast = FastEngine(opened(checkpoint), 4)
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered")
    fast.greedy.batch._decoder = Short(fast.greedy.batch._decoder, 0, lost)  # type: ignore[assignment]
    with pytest.raises(torch.AcceleratorError):
        in_flight(fast, [job("caption")])


def test_rows_are_bounded_by_the_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = opened(checkpoint)
    fast, beams = FastEngine(taken, 1), effective(taken).num_beams
    assert beams > 1
    needs = memory_budget.forecast(
        fast.decoder, fast.image_cache.vision, taken.model.config, 128, beams, 1, CACHED_FRAMES
    )
    monkeypatch.setattr(
        memory_budget, "available", lambda device: int(needs.total(3) / memory_budget.MARGIN) + needs.row // 2
    )
    assert FastEngine(taken, 8).free() == 3
    monkeypatch.setattr(memory_budget, "available", lambda device: needs.work)
    with pytest.raises(ConfigError, match=r"needs .* GB more memory for one answer at a time"):
        FastEngine(taken, 8)


def test_free_memory_is_known() -> None:
    assert memory_budget.available(torch.device("cpu")) > 1e6


# -- which engine


def test_the_engine_is_chosen(checkpoint: Path, tmp_path: Path) -> None:
    def kind(path: Path, **keys: Any) -> type:
        return type(pipeline.open(Florence2Settings(checkpoint=str(path), device="cpu", **keys)))

    assert kind(checkpoint) is FastEngine
    assert kind(checkpoint, engine="plain") is ReferenceEngine
    strange = build(tmp_path / "strange", repetition_penalty=1.5)
    assert kind(strange) is ReferenceEngine
    with pytest.raises(ConfigError, match="asks for repetition_penalty"):
        kind(strange, engine="fast")
