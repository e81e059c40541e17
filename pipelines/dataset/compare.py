"""Compares the answers of two models with the truth, by set of examples and by task.

Boxes have COCO's average precision, F1 and the calibration of their scores; an outline counts by its bounding box.
Captions have CIDEr-D, read texts the edit distance per character, categories the share that is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from pipelines.dataset.annotate import Questions, Shot
from pipelines.dataset.labels import LabelledObject
from pipelines.dataset.metrics.calibration import ReliabilityRow, calibration_error, reliability
from pipelines.dataset.metrics.detection import LabelScore, matched_by_label, overall, score_labels, threshold
from pipelines.dataset.metrics.text import cider_d, error_rate
from pipelines.florence2.examples import Example
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.core.boxes import bounds
from streamer.types import Answer, Region, Task

NOTICED = {"AP50": 0.01, "right": 0.01, "error rate": 0.01, "CIDEr-D": 0.1}
"""Measures by which a task is judged, with the difference from which one model is called better or worse."""

Verdict = Literal["better", "equal", "worse"]


class Question(NamedTuple):
    """A question about a picture."""

    image: str
    task: str
    text: str | None
    region: Region | None


Answers = Mapping[Question, Answer]
"""Answers of one model. A question without an answer, because its job failed, is missing."""


class ExampleSet(NamedTuple):
    """Questions with their right answers, several if the truth has several."""

    name: str
    truth: Mapping[Question, Sequence[Answer]]


def example_set(name: str, examples: Iterable[Example]) -> ExampleSet:
    """Return a set of examples."""
    truth: dict[Question, list[Answer]] = defaultdict(list)
    for one in examples:
        truth[Question(one.image, one.task, one.text, one.region)].append(one.answer)
    return ExampleSet(name, dict(truth))


def to_ask(sets: Iterable[ExampleSet]) -> list[Questions]:
    """Return all questions of the sets by picture, each question once."""
    by_image: dict[str, list[Task]] = defaultdict(list)
    for question in dict.fromkeys(question for one in sets for question in one.truth):
        keys: dict[str, Any] = {"text": question.text} if question.text is not None else {}
        if (region := question.region) is not None:
            keys["region"] = (region.x0, region.y0, region.x1, region.y1)
        tasks = by_image[question.image]
        tasks.append(Task(f"{question.task}-{len(tasks)}", question.task, SPECS[question.task].parameters(**keys)))
    return [Questions(Shot(image), tasks) for image, tasks in by_image.items()]


@dataclass(frozen=True, slots=True)
class BoxScores:
    """Measures of a model's boxes."""

    total: LabelScore
    by_label: Mapping[str, LabelScore]
    least: float
    """Score from which boxes count for F1, precision and recall."""
    counted: LabelScore
    """As `total`, of the boxes that count."""
    reliability: Sequence[ReliabilityRow]

    @property
    def worst(self) -> tuple[str, float] | None:
        """The label with the lowest AP50, with it; None without objects."""
        known = [(score.ap50, label) for label, score in self.by_label.items() if score.ap50 is not None]
        return None if not known else (min(known)[1], min(known)[0])

    def values(self) -> dict[str, Any]:
        return {
            "AP50": self.total.ap50,
            "AP": self.total.ap,
            "F1": self.counted.f1,
            "score from": self.least,
            "precision": self.counted.precision,
            "recall": self.counted.recall,
            "worst label": self.worst[0] if self.worst else None,
            "AP50 of worst label": self.worst[1] if self.worst else None,
            "calibration error": calibration_error(self.reliability),
        }


@dataclass(frozen=True, slots=True)
class Side:
    """Measures of one model for one task."""

    failed: int
    """Questions without an answer, which count as empty answers."""
    values: Mapping[str, Any]
    """Measures by name."""
    boxes: BoxScores | None = None
    """Set if the answers of the task are boxes or outlines."""


@dataclass(frozen=True, slots=True)
class Row:
    """Comparison of two models for one task of one set."""

    examples: str
    """Name of the set."""
    task: str
    questions: int
    measure: str
    """The measure that judges: a key of NOTICED."""
    sides: tuple[Side, Side]

    @property
    def change(self) -> float | None:
        """The second model's value minus the first one's; None without objects in the truth."""
        first, second = (side.values[self.measure] for side in self.sides)
        return None if first is None or second is None else second - first

    @property
    def verdict(self) -> Verdict:
        """Judgement of the second model."""
        gain = (self.change or 0.0) * (-1 if self.measure == "error rate" else 1)
        if abs(gain) < NOTICED[self.measure]:
            return "equal"
        return "better" if gain > 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        """Return all measures, JSON."""
        sides = []
        for side in self.sides:
            content: dict[str, Any] = {"failed": side.failed, **side.values}
            if side.boxes is not None:
                content["labels"] = {
                    label: {**asdict(score), "f1": score.f1} for label, score in side.boxes.by_label.items()
                }
                content["reliability"] = [asdict(row) for row in side.boxes.reliability]
            sides.append(content)
        head = {"set": self.examples, "task": self.task, "questions": self.questions, "measure": self.measure}
        return {**head, "change": self.change, "verdict": self.verdict, "models": sides}


def compare(sets: Sequence[ExampleSet], answers: tuple[Answers, Answers], least: float | None = None) -> list[Row]:
    """Return a row for each task of each set.

    `least`: the score from which boxes count; None: for each model and task the one with the best F1 on these pictures.
    """
    rows = []
    for one in sets:
        for task in dict.fromkeys(question.task for question in one.truth):
            truth = {question: right for question, right in one.truth.items() if question.task == task}
            first, second = (_side(task, truth, side, least) for side in answers)
            measure = next(name for name in NOTICED if name in first.values)
            rows.append(Row(one.name, task, len(truth), measure, (first, second)))
    return rows


def _side(task: str, truth: Mapping[Question, Sequence[Answer]], answers: Answers, least: float | None) -> Side:
    found = {question: answers.get(question, Answer()) for question in truth}
    failed = sum(question not in answers for question in truth)
    if FLORENCE_TASKS[task].form not in ("text", "quads"):
        scores = _box_scores(
            [(objects_of(q, found[q]), objects_of(q, right[0])) for q, right in truth.items()],
            least,
        )
        return Side(failed, scores.values(), scores)
    texts = [text_of(answer) for answer in found.values()]
    rights = [[text_of(answer) for answer in some] for some in truth.values()]
    if "caption" in task or task == "region_to_description":
        values = cider_d(texts, rights)
        return Side(failed, {"CIDEr-D": sum(values) / len(values)})
    if task == "region_to_category":
        same = sum(text in some for text, some in zip(texts, rights, strict=True))
        return Side(failed, {"right": same / len(texts)})
    rates = [min(error_rate(text, right) for right in some) for text, some in zip(texts, rights, strict=True)]
    return Side(failed, {"error rate": sum(rates) / len(rates)})


def objects_of(question: Question, answer: Answer) -> list[LabelledObject]:
    """Return the boxes and outlines of an answer. Those of a search for one thing have its text as label."""
    searched = question.text if question.task in ("open_vocabulary_detection", "referring_segmentation") else None
    boxes = [((box.x0, box.y0, box.x1, box.y1), box.label, box.score) for box in answer.boxes]
    outlines = [(bounds(shape.points), shape.label, shape.score) for shape in answer.polygons]
    return [LabelledObject(searched or label, box, score=score) for box, label, score in boxes + outlines]


def text_of(answer: Answer) -> str:
    """Return the text of an answer, that of its pieces if it has places too."""
    return " ".join(quad.label for quad in answer.quads) if answer.quads else (answer.text or "").strip()


def _box_scores(
    pictures: Sequence[tuple[Sequence[LabelledObject], Sequence[LabelledObject]]], least: float | None
) -> BoxScores:
    by_label = score_labels(pictures)
    matches = [match for some in matched_by_label(pictures).values() for match in some]
    total = overall(by_label)
    limit = threshold(matches, total.expected) if least is None else least
    kept = [match.is_right for match in matches if match.score >= limit]
    counted = replace(total, found=len(kept), right=sum(kept))
    return BoxScores(total, by_label, limit, counted, reliability(matches))
