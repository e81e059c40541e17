"""`streamer dataset compare`: two models beside the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import Device
from pipelines.cli.places import read_labels
from streamer.core.errors import ConfigError
from streamer.core.progress import tell

if TYPE_CHECKING:
    from pipelines.dataset.compare import Row

SHIPPED = "shipped"
"""Word that stands for the small model that is included."""

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"Folder of a checkpoint, its name on the Hugging Face hub, or `{SHIPPED}`, the small model here.",
    ),
]


def compare(
    before: Model,
    after: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Report as HTML; the numbers are beside it as JSON.")],
    truth: Annotated[
        str | None, typer.Option(metavar="FORMAT:PATH", help="Right labels of the objects in the pictures.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the pictures that the labels name.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Task to ask about the labels, as for `examples`; repeat it for several. [default: object_detection]",
        ),
    ] = None,
    examples: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="EXAMPLES",
            help="Further right answers, of any tasks, which show what the second model has forgotten.",
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Score from which boxes count, 0 to 1. [default: that with the best F1]"
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare the answers of two models with the truth.

    The report shows pictures side by side. The answers are kept in a file beside the report, so an interrupted run
    continues where it ended.
    """
    from pipelines.dataset.annotate import find_model
    from pipelines.dataset.compare import example_set
    from pipelines.dataset.report import read_set, write_report
    from pipelines.dataset.round_examples import derived

    folder = out.parent
    sets = []
    if truth is not None:
        if pictures is None:
            raise ConfigError("--truth needs --pictures: the folder of the pictures that the labels name")
        found, tasks = read_labels(truth).pictures, task or ["object_detection"]
        made = (one for picture in found for one in derived(picture, tasks))
        sets.append(
            example_set(truth, [replace(one, image=os.path.relpath(pictures / one.image, folder)) for one in made])
        )
    sets += [read_set(path, folder) for path in examples or ()]
    if not any(one.truth for one in sets):
        raise ConfigError("nothing to compare: give --truth with labels of pictures, or --examples with right answers")
    first, second = (find_model(None if model == SHIPPED else model) for model in (before, after))
    print_rows(write_report((first, second), sets, out, device, tell, min_score))


def print_rows(rows: Sequence[Row]) -> None:
    """Print the measure of each row for both models."""
    from pipelines.dataset.compare_page import summary

    width = max(len(f"{row.task} ({row.examples})") for row in rows)
    for row in rows:
        first, second = ("    -" if (v := side.values[row.measure]) is None else f"{v:5.3f}" for side in row.sides)
        head = f"{f'{row.task} ({row.examples})':<{width}}  {row.questions:5} questions  {row.measure:<10}"
        typer.echo(f"{head}  {first} -> {second}  {row.verdict}")
    typer.echo(summary(rows))
