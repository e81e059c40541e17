"""`streamer dataset`: pictures with answers for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.compare import compare
from pipelines.cli.options import Checkpoint, Device, MinScore, PictureFolder
from pipelines.cli.places import LabelPlace, read_labels, write_labels
from pipelines.cli.review import review
from pipelines.cli.round import dataset_round
from streamer.core.errors import ConfigError
from streamer.core.progress import tell

if TYPE_CHECKING:
    from pipelines.dataset.filters import FilterTable
    from streamer.types import Task

app = typer.Typer(help="Make datasets of pictures with answers, and convert them.", no_args_is_help=True)
app.command()(compare)
app.command("round")(dataset_round)
app.command()(review)


@app.command()
def convert(source: LabelPlace, target: LabelPlace) -> None:
    """Convert labels from one format to another.

    The pictures stay where they are.
    """
    labels = read_labels(source)
    if any(picture.width == 0 for picture in labels.pictures):
        raise ConfigError(f"{source}: has pictures without objects, whose size the file does not say")
    write_labels(target, labels)
    objects = sum(len(picture.objects) for picture in labels.pictures)
    typer.echo(f"{target}: {len(labels.pictures)} pictures, {objects} objects, {len(labels.names)} labels")
    for reason, count in labels.left_out.items():
        typer.echo(f"left out: {count} ({reason})")


@app.command()
def annotate(
    folder: PictureFolder,
    task: Annotated[
        list[str], typer.Option(metavar="TASK", help="Task to ask about each picture; repeat it for several.")
    ],
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Text of the tasks that take one.")] = None,
    model: Checkpoint = None,
    device: Device = "auto",
) -> None:
    """Ask a model about all pictures of a folder.

    Its answers are appended to `answers.jsonl` in the folder. An interrupted run continues where it ended.
    """
    from pipelines.dataset.annotate import Questions, ask, find_model
    from pipelines.dataset.shots import find_shots
    from streamer.types.dataset import ANSWERS

    shots = find_shots(folder)
    if not shots:
        raise ConfigError(f"{folder}: has no pictures")
    tasks = [_task(name, text) for name in task]
    out = folder / ANSWERS
    counts = ask(find_model(model), folder, [Questions(shot, tasks) for shot in shots], out, device, tell)
    typer.echo(f"{out}: {counts.answered} new answers, {counts.known} known, {counts.failed} failed")
    raise typer.Exit(1 if counts.failed else 0)


@app.command("filter")
def filter_labels(
    folder: PictureFolder,
    out: Annotated[str, typer.Option(metavar="FORMAT:PATH", help="Labels that are left.")],
    min_score: MinScore = 0.5,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT:PATH", help="Reviewed labels of some pictures: fit the lowest score of each label to them."
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="With --fit: share of right objects to reach, 0 to 1. [default: that with the best F1]",
        ),
    ] = None,
    agree: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Keep only objects that this task found too; repeat it for several."),
    ] = None,
    refuse: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Remove objects with this label; repeat it for several.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STREAM:]X,Y,X,Y,X,Y",
            help="Remove objects in this polygon, in fractions of the picture; repeat it for several.",
        ),
    ] = None,
    tracks: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Remove objects that no other picture within T shows, and add missed ones: 500ms, 2s, 1m."
        ),
    ] = None,
    removed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for the removed objects and captions with the reasons (JSON Lines)."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File for the captions whose content boxes support, as examples for `streamer train`."
        ),
    ] = None,
) -> None:
    """Turn answers into labels, without probably wrong ones.

    The answers are those of `object_detection`. A table says what each filter removed.
    """
    from pipelines.dataset import filters
    from pipelines.dataset.filter_options import FilterFiles, fitted, parse_area
    from pipelines.dataset.gather import answered_pictures, detected_objects, labelled
    from streamer.core.settings import option_seconds
    from streamer.types.dataset import ANSWERS

    if precision is not None and fit is None:
        raise ConfigError("--precision: needs --fit with reviewed labels")
    pictures = answered_pictures(folder / ANSWERS)
    for task in agree or ():
        if not any(task in picture.answers for picture in pictures):
            raise ConfigError(
                f"--agree: {folder / ANSWERS} has no answers of `{task}`: ask with `streamer dataset annotate`"
            )
    steps = [filters.by_size(), filters.by_overlap()]
    if refuse:
        steps.append(filters.by_label(refuse))
    if ignore:
        steps.append(filters.by_place([parse_area(text) for text in ignore]))
    if agree:
        steps.append(filters.by_agreement(agree))
    if tracks:
        steps.append(filters.by_tracks(option_seconds("--tracks", tracks)))
    objects = detected_objects(pictures)
    limits: Mapping[str, float] = {}
    if fit is not None:
        others, _ = filters.run(steps, pictures, objects)
        min_score, limits = fitted(pictures, others, read_labels(fit), precision, fit)
        typer.echo(f"lowest score: {min_score:.3f}{''.join(f', {name} {one:.3f}' for name, one in limits.items())}")
    steps.append(filters.by_score(min_score, limits))
    objects, table = filters.run(steps, pictures, objects)
    with FilterFiles(folder, removed, captions) as files:
        write_labels(out, labelled(folder, pictures, objects))
        _print_table(table)
        files.write_objects(pictures, table)
        files.write_captions(pictures, typer.echo)


@app.command()
def examples(
    labels: LabelPlace,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File for the examples, for `streamer train`.")],
    pictures: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the pictures that the labels name.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK", help="Task to make examples of; repeat it for several. [default: object_detection]"
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Second file, for the examples of the last fifth of each camera's pictures by time."
        ),
    ] = None,
) -> None:
    """Turn labels into training examples.

    Possible tasks: object_detection, region_proposal, open_vocabulary_detection, phrase_grounding,
    region_to_category and, for labels with outlines, referring_segmentation.
    """
    from pipelines.dataset.annotate import Shot
    from pipelines.dataset.round_examples import derived, split_held_out, write
    from pipelines.dataset.shots import find_shots

    by_image = {picture.file: picture for picture in read_labels(labels).pictures}
    if missing := next((file for file in by_image if not (pictures / file).is_file()), None):
        raise ConfigError(f"{pictures}: lacks the picture {missing} of {labels}")
    if held_out == out:
        raise ConfigError("--held-out: name another file than --out")
    known = {shot.image: shot for shot in find_shots(pictures)}
    shots = [known.get(file, Shot(file)) for file in by_image]
    parts = {out: shots}
    if held_out is not None:
        parts[out], parts[held_out] = split_held_out(shots)
    for path, some in parts.items():
        made = (example for shot in some for example in derived(by_image[shot.image], task or ["object_detection"]))
        try:
            typer.echo(f"{path}: {write(path, pictures, made)} examples")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


@app.command()
def score(truth: LabelPlace, found: LabelPlace) -> None:
    """Compare labels with the truth.

    It prints precision, recall and average precision by label.
    """
    from pipelines.dataset.metrics.detection import overall, score_labels

    right, other = ({one.file: one.objects for one in read_labels(place).pictures} for place in (truth, found))
    if missing := sorted(right.keys() - other.keys()):
        raise ConfigError(f"{found}: lacks {len(missing)} pictures of {truth}, such as {missing[0]}")
    scores = score_labels([(other[file], objects) for file, objects in right.items()])
    rows = [*scores.items(), ("all", overall(scores))]
    width = max(len(label) for label, _ in rows)
    typer.echo(f"{'label':<{width}}  objects  found  precision  recall    F1  AP50    AP")
    for label, one in rows:
        precisions = "  ".join("   -" if value is None else f"{value:.2f}" for value in (one.ap50, one.ap))
        counts = f"{one.expected:7}  {one.found:5}  {one.precision:9.2f}  {one.recall:6.2f}  {one.f1:.2f}"
        typer.echo(f"{label:<{width}}  {counts}  {precisions}")


def _task(name: str, text: str | None) -> Task:
    """Return a task by name. Raises ConfigError."""
    from pydantic import ValidationError

    from pipelines.florence2.tasks import SPECS
    from streamer.core.settings import in_words
    from streamer.types import Task

    if name not in SPECS:
        raise ConfigError(f"--task: no task `{name}`; `streamer tasks` lists them")
    keys: dict[str, Any] = {"text": text} if SPECS[name].takes_text else {}
    if SPECS[name].takes_region or (SPECS[name].takes_text and text is None):
        raise ConfigError(f"--task {name}: needs {'a region' if SPECS[name].takes_region else '--text'}")
    try:
        return Task(name, name, SPECS[name].parameters.model_validate(keys))
    except ValidationError as error:
        raise ConfigError(f"--text: {in_words(error.errors()[0])}") from None


def _print_table(table: FilterTable) -> None:
    typer.echo(f"{'filter':<10}  removed  added   kept  removed if")
    for row in table.rows:
        counts = f"{sum(row.removed.values()):7}  {sum(row.added.values()):5}  {row.kept:5}"
        typer.echo(f"{row.name:<10}  {counts}  {row.why}{_labels(row.removed)}")


def _labels(removed: Mapping[str, int]) -> str:
    most: Sequence[tuple[str, int]] = sorted(removed.items(), key=lambda item: -item[1])[:5]
    return f" ({', '.join(f'{count} {label}' for label, count in most)})" if most else ""
