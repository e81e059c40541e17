"""Asks two models the questions of sets of examples, and writes the report of their comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.dataset.annotate import Model, ask
from pipelines.dataset.annotations import read_annotations
from pipelines.dataset.compare import Answers, ExampleSet, Question, Row, compare, example_set, to_ask
from pipelines.dataset.compare_page import page
from pipelines.florence2.examples import read_examples
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.picture_files import read_picture


def write_report(
    models: tuple[Model, Model],
    sets: Sequence[ExampleSet],
    out: Path,
    device: str,
    tell: Callable[[str], None],
    min_score: float | None = None,
) -> list[Row]:
    """Write the report `out`, its numbers (`.json`) and the models' answers beside it; return its rows.

    Pictures are relative to the folder of the report. An interrupted run continues with the questions that have no
    answer. Raises ConfigError.
    """
    first, second = models
    names = first.name, second.name
    answers = _ask(first, sets, out, device, tell), _ask(second, sets, out, device, tell)
    rows = compare(sets, answers, min_score)
    numbers = {"models": names, "rows": [row.to_json() for row in rows]}
    text = page(names, rows, sets, answers, lambda image: read_picture(out.parent / image))
    try:
        atomic_file.write(out.with_suffix(".json"), json.dumps(numbers, indent=2) + "\n")
        atomic_file.write(out, text)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None
    return rows


def read_set(path: Path, folder: Path) -> ExampleSet:
    """Return the examples of a file as a set, their pictures relative to `folder`. Raises ConfigError."""
    found = read_examples(path)
    return example_set(
        str(path), [replace(one, image=os.path.relpath(path.parent / one.image, folder)) for one in found]
    )


def _ask(model: Model, sets: Sequence[ExampleSet], out: Path, device: str, tell: Callable[[str], None]) -> Answers:
    kept = out.with_suffix(".answers.jsonl")
    ask(model, out.parent, to_ask(sets), kept, device, tell)
    found = [one for one in read_annotations(kept) if one.model == model.name]
    return {Question(one.image, one.task, one.text, one.region): one.answer for one in found}
