"""`streamer dataset round`: from pictures to a better model, with stops where a person decides."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import (
    Batch,
    Checkpoint,
    Composed,
    Device,
    Epochs,
    Full,
    MinScore,
    PictureFolder,
    Rank,
    Rate,
    Vision,
)
from streamer.core.errors import ConfigError
from streamer.core.progress import tell


def dataset_round(
    folder: PictureFolder,
    model: Checkpoint = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Checkpoint that makes the labels. [default: that of --model]")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Task to train; repeat it for several. [default: object_detection]"),
    ] = None,
    agree: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Keep only objects that this task found too; repeat it for several. [default: region_proposal]",
        ),
    ] = None,
    min_score: MinScore = 0.5,
    rehearse: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Train the model's own answers of this task too, so that it is not forgotten. "
            "[default: caption, dense_region_caption]",
        ),
    ] = None,
    full: Full = False,
    vision: Vision = False,
    rank: Rank = 16,
    rate: Rate = None,
    epochs: Epochs = 8,
    batch: Batch = 8,
    composed: Composed = 0,
    accept_labels: Annotated[
        bool, typer.Option("--accept-labels", help="Train on the filtered labels without a review.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Do all steps from pictures to a better model.

    The steps are annotate, filter, review, examples, train and compare. The command ends where a person decides, and
    prints what to do; the same command continues. It also continues a run that was interrupted. All
    files are in `rounds/1` of the folder; `lineage.jsonl` has the hashes, settings and counts of each step. When the
    folder has further pictures, the next round begins.
    """
    from pydantic import ValidationError

    from pipelines.dataset.rounds import RoundSettings, run_round
    from streamer.core.settings import in_words

    training = {"full": full, "vision": vision, "rank": rank, "rate": rate, "epochs": epochs, "batch": batch}
    training["composed"] = composed
    lists = {"tasks": task, "agree": agree, "rehearse": rehearse}
    given = {name: value for name, value in lists.items() if value}
    try:
        settings = RoundSettings.model_validate(
            {"model": model, "teacher": teacher, "min_score": min_score, "training": training, **given}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][-1]}: {in_words(first)}") from None
    typer.echo(run_round(folder, settings, tell, device, accept_labels))
