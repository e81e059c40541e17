"""The second look: which shapes are asked about, and which stay in the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.florence2.confirm import MAX_SHAPES, MIN_SCORES
from pipelines.florence2.pipeline import Florence2Settings, open_engine
from pipelines.florence2.stages import with_stages
from pipelines.florence2.tasks import SPECS
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Answer, Box, DueTask, Frame, Job, Polygon, Region, Result, Task
from tests.support.checkpoints import make_image

LEFT, RIGHT = Box(0.1, 0.1, 0.4, 0.5, "red ring", 0.9), Box(0.6, 0.1, 0.9, 0.5, "red ring", 0.8)
OUTLINE = Polygon(((0.1, 0.1), (0.4, 0.2), (0.2, 0.5)), "", 0.9)
SEARCH = "open_vocabulary_detection"


class AnsweringEngine:
    """Answers each job at once: searches with `found`, looks with `said`."""

    model, description, warnings = "answering", "answering", ()

    def __init__(self, found: Callable[[str], Answer], said: Callable[[Region, str], Answer]) -> None:
        self.found, self.said = found, said
        self.asked: list[tuple[str, Any]] = []
        self.jobs: list[Job] = []

    def free(self) -> int:
        return 8 - len(self.jobs)

    def admit(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs

    def step(self) -> list[Result]:
        jobs, self.jobs = self.jobs, []
        return [self._result(job) for job in jobs]

    def _result(self, job: Job) -> Result:
        task = job.due.task
        region = task.params.prompt_region
        self.asked.append((task.task, region or task.params.text))
        answer = self.found(task.params.text) if region is None else self.said(region, task.task)
        if answer.text == "endless":
            return Result(job, "error", error="the answer did not end")
        return Result(job, "empty" if answer.is_empty else "ok", answer)

    @property
    def looks(self) -> list[Region]:
        return [about for _, about in self.asked if isinstance(about, Region)]


def look_of(words: dict[float, str], score: float = 0.9) -> Callable[[Region, str], Answer]:
    """Return the words about the region that begins at each x."""
    return lambda region, _: Answer(text=words.get(round(region.x0, 3), "a large red ring"), score=score)


def ask(
    engine: AnsweringEngine, task: str = SEARCH, text: Any = "red ring", confirm: Any = True, size: Any = (160, 120)
) -> Result:
    params = SPECS[task].parameters.model_validate({"text": text, "confirm": confirm})
    frame = Frame("gate", 1, 0, 0.0, 0.0, 0.0, make_image(0, *size))
    job = Job(DueTask("gate", Task("things", task, params), 0.0), frame)
    whole = with_stages(engine)
    whole.admit([job])
    for _ in range(100):
        if results := whole.step():
            assert results[0].job is job
            return results[0]
    raise AssertionError("no result")


def refused(result: Result) -> list[tuple[str, str, str | None]]:
    assert result.answer.confirmation is not None
    return [(one.box.label, one.reason, one.said) for one in result.answer.confirmation.refused]


def test_shape_that_the_model_names_otherwise_is_refused() -> None:
    engine = AnsweringEngine(lambda _: Answer(boxes=(LEFT, RIGHT)), look_of({0.6: "a large red star"}))
    result = ask(engine)
    assert (result.outcome, result.answer.boxes) == ("ok", (LEFT,))
    assert refused(result) == [("red ring", "words", "a large red star")]
    assert result.answer.confirmation is not None
    assert result.answer.confirmation.confirmed == 1
    assert result.answer.confirmation.refused[0].support == pytest.approx(0.8 * 0.1)


@pytest.mark.parametrize("words", ["a blue ring", "a large red star", "the sky", ""])
def test_answer_without_confirmed_shapes_is_empty(words: str) -> None:
    result = ask(AnsweringEngine(lambda _: Answer(boxes=(LEFT,)), look_of({0.1: words}, 0.95)))
    assert (result.outcome, result.answer.boxes) == ("empty", ())
    assert len(refused(result)) == 1


def test_label_decides_what_a_shape_of_a_caption_must_show() -> None:
    ring, star = (Box(x, 0.1, x + 0.3, 0.5, label, 0.9) for x, label in ((0.1, "a red ring"), (0.6, "a blue star")))
    engine = AnsweringEngine(lambda _: Answer(boxes=(ring, star)), look_of({0.1: "a ring", 0.6: "a red ring"}))
    result = ask(engine, "phrase_grounding", "a red ring and a blue star")
    assert result.answer.boxes == (ring,)
    assert refused(result) == [("a blue star", "words", "a red ring")]


def test_outline_is_looked_at_by_its_bounding_box() -> None:
    engine = AnsweringEngine(lambda _: Answer(polygons=(OUTLINE,)), look_of({}))
    assert ask(engine, "referring_segmentation").answer.polygons == (OUTLINE,)
    assert engine.looks == [Region(0.1, 0.1, 0.4, 0.5)]
    engine.said = look_of({0.1: "a blue ring"})
    result = ask(engine, "referring_segmentation")
    assert result.answer.polygons == ()
    assert refused(result) == [("red ring", "words", "a blue ring")]


def test_shape_under_8_pixels_is_refused_unasked() -> None:
    thin = Box(0.5, 0.1, 0.54, 0.9, "red ring", 0.9)
    engine = AnsweringEngine(lambda _: Answer(boxes=(thin,)), look_of({}))
    assert refused(ask(engine)) == [("red ring", "small", None)]
    assert engine.looks == []
    assert ask(engine, size=(400, 300)).answer.boxes == (thin,), "the same place in a larger picture"


def test_best_shapes_are_looked_at_when_there_are_too_many() -> None:
    many = tuple(Box(0.01 * n, 0.1, 0.01 * n + 0.3, 0.5, "red ring", 0.5 + 0.01 * n) for n in range(MAX_SHAPES + 3))
    engine = AnsweringEngine(lambda _: Answer(boxes=many), look_of({}))
    result = ask(engine)
    assert len(engine.looks) == MAX_SHAPES
    assert result.answer.boxes == many[3:]
    assert [reason for _, reason, _ in refused(result)] == ["most"] * 3


def test_score_of_the_second_look_decides() -> None:
    def at(score: float, words: str = "a red ring", **confirm: Any) -> Result:
        return ask(AnsweringEngine(lambda _: Answer(boxes=(LEFT,)), look_of({0.1: words}, score)), confirm=confirm)

    assert at(0.5, min_score=0.45).answer.boxes == (LEFT,)
    assert [reason for _, reason, _ in refused(at(0.5, min_score=0.46))] == ["score"]
    assert at(0.3, "a red star").answer.boxes == (LEFT,), "the model is not certain of the other words"
    assert at(0.95, "a red star", min_score=0).answer.boxes == (LEFT,)


def test_both_looks_must_agree() -> None:
    def said(_: Region, task: str) -> Answer:
        return Answer(text="star" if task == "region_to_category" else "a red ring", score=0.95)

    engine = AnsweringEngine(lambda _: Answer(boxes=(LEFT,)), said)
    assert ask(engine, confirm={"agree": "description"}).outcome == "ok"
    assert ask(engine, confirm={"agree": "category"}).outcome == "empty"
    assert refused(ask(engine, confirm={"agree": "both"})) == [("red ring", "words", "a red ring / star")]


def test_texts_of_a_list_are_confirmed_one_by_one() -> None:
    engine = AnsweringEngine(lambda text: Answer(boxes=(LEFT if "ring" in text else RIGHT,)), look_of({}))
    result = ask(engine, text=["red ring", "blue star"])
    assert [box.label for box in result.answer.boxes] == ["red ring"]
    assert refused(result) == [("blue star", "words", "a large red ring")]
    kinds = [kind for kind, _ in engine.asked]
    assert kinds == [SEARCH] * 2 + ["region_to_description"] * 2, "one stage for all texts"


def test_answer_without_shapes_needs_no_look() -> None:
    engine = AnsweringEngine(lambda _: Answer(), look_of({}))
    result = ask(engine)
    assert (result.outcome, refused(result), engine.looks) == ("empty", [], [])


def test_look_without_an_end_is_an_error() -> None:
    result = ask(AnsweringEngine(lambda _: Answer(boxes=(LEFT,)), look_of({0.1: "endless"})))
    assert (result.outcome, result.answer) == ("error", Answer())
    assert result.error == "second look at `red ring`: the answer did not end"


@pytest.mark.parametrize("confirm", [False, None])
def test_task_without_confirm_has_one_prompt(confirm: Any) -> None:
    engine = AnsweringEngine(lambda _: Answer(boxes=(LEFT,)), look_of({}))
    assert ask(engine, confirm=confirm).answer == Answer(boxes=(LEFT,))
    assert engine.looks == []


def test_confirm_counts_in_costs() -> None:
    plain, confirmed = (
        Task("a", SEARCH, SPECS[SEARCH].parameters.model_validate({"text": ["car", "van"], "confirm": confirm}))
        for confirm in (False, {"agree": "both"})
    )
    assert plain.params.prompts == {SEARCH: 2}
    assert confirmed.params.prompts == {SEARCH: 2, "region_to_description": 4, "region_to_category": 4}
    assert plain.work != confirmed.work


def test_every_task_with_a_text_has_a_threshold() -> None:
    assert MIN_SCORES.keys() == {name for name, spec in SPECS.items() if spec.takes_text}
    help_text = str(SPECS[SEARCH].parameters.model_json_schema()["$defs"]["Confirm"]["properties"]["min_score"])
    assert all(f"{least:g}" in help_text for least in MIN_SCORES.values())


@pytest.mark.parametrize("text", ["the left side", "赤い車", ["car", "the background"]])
def test_text_that_names_no_thing_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="`confirm` cannot check"):
        SPECS[SEARCH].parameters.model_validate({"text": text, "confirm": True})
    SPECS[SEARCH].parameters.model_validate({"text": text})


def test_follow_up_can_have_a_second_look() -> None:
    task = {"task": "caption", "then": [{"task": "phrase_grounding", "confirm": True}]}
    (read,) = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [task]}}}).streams["gate"].tasks
    assert read.then[0].params.confirm is not None
    with pytest.raises(ConfigError, match="region_to_ocr takes no confirm"):
        from_mapping(
            {
                "streams": {
                    "gate": {
                        "source": "synthetic",
                        "tasks": [{"task": "object_detection", "then": [{"task": "region_to_ocr", "confirm": True}]}],
                    }
                }
            }
        )


def test_shipped_model_refuses_absent_things_in_one_vision_pass() -> None:
    inner: Any = open_engine(Florence2Settings(device="cpu"))
    engine = with_stages(inner)
    false_finds = {}
    for confirm in (False, True):
        params = SPECS["phrase_grounding"].parameters.model_validate(
            {"text": "a red star and a blue ring and a green cross", "confirm": confirm}
        )
        false_finds[confirm] = 0
        for seed in (700, 702, 707, 713):
            scene = World(seed).scene(1.0)
            frame = Frame("toy", 0, seed, 0.0, 0.0, scene.time, scene.paint(320, 240))
            before = inner.image_cache.misses
            engine.admit([Job(DueTask("toy", Task(f"t{seed}", "phrase_grounding", params), 0.0), frame)])
            while not (results := engine.step()):
                pass
            assert inner.image_cache.misses == before + 1
            there = {f"{thing.colour} {thing.kind}" for thing in scene.objects}
            false_finds[confirm] += sum(box.label.partition(" ")[2] not in there for box in results[0].answer.boxes)
    assert false_finds == {False: 3, True: 0}
