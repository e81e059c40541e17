"""`streamer dataset compare`: two models beside the truth."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.places import read_labels
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.dataset.compare import Answers, ExampleSet, Row
    from pipelines.florence2.examples import Example

SHIPPED = "shipped"
"""Word that stands for the small model that is included."""

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"Checkpoint; `{SHIPPED}`: the small model of this package.")
]


def compare(
    before: Model,
    after: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Report as HTML; the numbers are beside it as JSON.")],
    truth: Annotated[str | None, typer.Option(metavar="FORMAT:PATH", help="Labels of objects that are right.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the pictures that the labels name.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Task to ask about the labels, as for `examples`; repeat it for several.")
    ] = None,
    examples: Annotated[
        list[Path] | None,
        typer.Option(metavar="EXAMPLES", help="Further right answers, of any tasks: what must not be forgotten."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which boxes count. [default: that with the best F1]")
    ] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda.")] = "auto",
) -> None:
    """Compare the answers of two models with the truth, and write a report with pictures side by side.

    The answers are kept in a file beside the report, so an interrupted run continues where it ended.
    """
    from pipelines.dataset.compare import example_set

    folder = out.parent
    sets = []
    if truth is not None:
        if pictures is None:
            raise ConfigError("--truth needs --pictures: the folder of the pictures that the labels name")
        sets.append(example_set(truth, _derived(truth, pictures, folder, task or ["object_detection"])))
    sets += [example_set(str(path), _read(path, folder)) for path in examples or ()]
    if not any(one.truth for one in sets):
        raise ConfigError("nothing to compare: give --truth with labels of pictures, or --examples with right answers")
    rows = write_report(before, after, sets, out, min_score, device)
    print_rows(rows)


def write_report(
    before: str, after: str, sets: Sequence[ExampleSet], out: Path, min_score: float | None, device: str
) -> list[Row]:
    """Ask two models, write the report `out` and its numbers; return the rows.

    Paths of pictures are relative to the folder of the report. Raises ConfigError.
    """
    from pipelines.dataset.compare import compare as rows_of
    from pipelines.dataset.compare_page import page
    from pipelines.dataset.pictures import read_picture
    from streamer.core import atomic_file

    (first, ours), (second, theirs) = (_ask(model, sets, out, device) for model in (before, after))
    names, answers = (first, second), (ours, theirs)
    rows = rows_of(sets, answers, min_score)
    numbers = {"models": names, "rows": [row.to_json() for row in rows]}
    text = page(names, rows, sets, answers, lambda image: read_picture(out.parent / image))
    try:
        atomic_file.write(out.with_suffix(".json"), json.dumps(numbers, indent=2) + "\n")
        atomic_file.write(out, text)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """Print the measure of each row for both models."""
    from pipelines.dataset.compare_page import summary

    width = max(len(f"{row.task} ({row.examples})") for row in rows)
    for row in rows:
        first, second = ("    -" if (v := side.values[row.measure]) is None else f"{v:5.3f}" for side in row.sides)
        head = f"{f'{row.task} ({row.examples})':<{width}}  {row.questions:5} questions  {row.measure:<10}"
        typer.echo(f"{head}  {first} -> {second}  {row.verdict}")
    typer.echo(summary(rows))


def _derived(truth: str, pictures: Path, folder: Path, tasks: Sequence[str]) -> list[Example]:
    """Return examples of labels, their pictures relative to `folder`."""
    from pipelines.dataset.derive import examples as derived

    found = read_labels(truth).pictures
    try:
        made = [example for picture in found for example in derived(picture, tasks)]
    except ValueError as error:
        raise ConfigError(f"--task: {error}") from None
    return [replace(one, image=os.path.relpath(pictures / one.image, folder)) for one in made]


def _read(path: Path, folder: Path) -> list[Example]:
    """Return the examples of a file, their pictures relative to `folder`."""
    from pipelines.florence2.examples import read_examples

    return [replace(one, image=os.path.relpath(path.parent / one.image, folder)) for one in read_examples(path)]


def _ask(model: str, sets: Sequence[ExampleSet], out: Path, device: str) -> tuple[str, Answers]:
    """Return the name and hash of a model, and its answers."""
    from pipelines.dataset.annotate import annotate
    from pipelines.dataset.annotations import AnnotationFile, read_annotations
    from pipelines.dataset.compare import Question, to_ask
    from pipelines.florence2.checkpoint_files import open_folder
    from pipelines.florence2.pipeline import pipeline

    checkpoint = None if model == SHIPPED else model
    files = open_folder(checkpoint)
    name = f"{files.name}@{files.digest()[:12]}"
    engine = pipeline.open(pipeline.settings(checkpoint=checkpoint, device=device))
    kept = AnnotationFile(out.with_suffix(".answers.jsonl"))
    try:
        annotate(
            out.parent, to_ask(sets), engine, name, kept, lambda line: typer.echo(f"{name}: {line}", file=sys.stderr)
        )
    finally:
        kept.close()
    found = [one for one in read_annotations(kept.path) if one.model == name]
    return name, {Question(one.image, one.task, one.text, one.region): one.answer for one in found}
