"""Options of the commands that train."""

from __future__ import annotations

from typing import Annotated

import typer

Full = Annotated[bool, typer.Option("--full", help="Train all weights: for small models.")]
Vision = Annotated[bool, typer.Option("--vision", help="Train the vision tower too.")]
Rank = Annotated[int, typer.Option(min=1, max=256, help="Rank of the adapters.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate. [default: 1e-4; with --full 2e-5]")]
Epochs = Annotated[int, typer.Option(min=1, max=1000, help="Passes over the examples at most.")]
Batch = Annotated[int, typer.Option(min=1, max=256, help="Examples per step.")]
Composed = Annotated[
    int,
    typer.Option(
        min=0, max=100, metavar="N", help="Pictures to compose of each labelled one: its objects at other places."
    ),
]
