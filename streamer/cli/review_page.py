"""Serves the review of a dataset, for the command `streamer dataset review` of the pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from streamer.types.review import Review


def serve_review(review: Review, bind: str, names: Sequence[str]) -> None:
    """Serve a review until it is interrupted, and print the links that open it. Raises ConfigError."""
    from streamer.web.review.serve import serve

    serve(review, bind, names, typer.echo)
