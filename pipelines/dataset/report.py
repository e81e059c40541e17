"""Asks two models the questions of sets of examples, and writes the report of their comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.dataset.annotate import ask
from pipelines.dataset.annotations import read_annotations
from pipelines.dataset.compare import Answers, ExampleSet, Question, Row, compare, example_set, to_ask
from pipelines.dataset.compare_page import page
from pipelines.dataset.pictures import read_picture
from pipelines.florence2.examples import read_examples
from streamer.core import atomic_file
from streamer.core.errors import ConfigError


def write_report(
    models: tuple[str | None, str | None],
    sets: Sequence[ExampleSet],
    out: Path,
    device: str,
    tell: Callable[[str], None],
    min_score: float | None = None,
) -> list[Row]:
    """Write the report `out`, its numbers (`.json`) and the models' answers beside it; return its rows.

    Models are checkpoints, None is the shipped one. Pictures are relative to the folder of the report. An interrupted
    run continues with the questions that have no answer. Raises ConfigError.
    """
    (first, ours), (second, theirs) = (_ask(model, sets, out, device, tell) for model in models)
    names, answers = (first, second), (ours, theirs)
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


def _ask(
    model: str | None, sets: Sequence[ExampleSet], out: Path, device: str, tell: Callable[[str], None]
) -> tuple[str, Answers]:
    """Return the name and hash of a model, and its answers."""
    kept = out.with_suffix(".answers.jsonl")
    name, _ = ask(model, out.parent, to_ask(sets), kept, device, tell)
    found = [one for one in read_annotations(kept) if one.model == name]
    return name, {Question(one.image, one.task, one.text, one.region): one.answer for one in found}
