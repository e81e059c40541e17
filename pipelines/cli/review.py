"""`streamer dataset review`: people correct labels in a page."""

from __future__ import annotations

import getpass
import re
from typing import Annotated

import typer

from pipelines.cli.options import PictureFolder
from pipelines.cli.places import read_labels


def review(
    context: typer.Context,
    folder: PictureFolder,
    labels: Annotated[
        str | None, typer.Option(metavar="FORMAT:PATH", help="Labels to review. [default: answers.jsonl of the folder]")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="FORMAT:PATH", help="Second set of labels, shown beside the first one.")
    ] = None,
    bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address and port of the page; port 0 is any free one.")
    ] = "127.0.0.1:0",
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Reviewer; repeat it for several. [default: the user]")
    ] = None,
) -> None:
    """Serve a page in which people correct labels by keys.

    Decisions are appended to `review.jsonl` in the folder.
    """
    from pipelines.dataset.gather import answered_pictures, detected_objects
    from pipelines.dataset.review.session import DatasetReview, LabelSet
    from streamer.types.dataset import ANSWERS
    from streamer.types.review import ServeReview

    given = [(place, read_labels(place)) for place in (labels, against) if place is not None]
    sets = [LabelSet(place, {one.file: one.objects for one in found.pictures}) for place, found in given]
    if labels is None:
        answered = answered_pictures(folder / ANSWERS) if (folder / ANSWERS).is_file() else []
        objects = dict(zip((one.image for one in answered), detected_objects(answered), strict=True))
        sets.insert(0, LabelSet(ANSWERS if answered else "no labels", objects))
    session = DatasetReview(folder, sets)
    typer.echo(f"{folder}: {session.reviewed} of {session.total} pictures are reviewed")
    for reason, count in session.left_out.items():
        typer.echo(f"left out: {count} ({reason})")
    serve: ServeReview = context.obj  # `streamer.cli.review_page`; see decision 0049
    serve(session, bind, name or [_user()])
    typer.echo(f"{folder}: {session.reviewed} of {session.total} pictures are reviewed")


def _user() -> str:
    """Return the name of the user in the form of a reviewer's name."""
    return re.sub("[^a-z0-9_-]+", "-", getpass.getuser().lower()).strip("_-")[:60] or "reviewer"
