"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PictureFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with pictures.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Checkpoint: its folder, or its name on the Hugging Face hub. [default: the small model that is included]",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Device: auto, cpu, cuda.")]
MinScore = Annotated[
    float, typer.Option(min=0, max=1, metavar="SCORE", help="Remove objects with a lower score, 0 to 1.")
]
Full = Annotated[bool, typer.Option("--full", help="Train all weights, for small models; otherwise adapters (LoRA).")]
Vision = Annotated[bool, typer.Option("--vision", help="Also train the part of the model that sees (vision tower).")]
Rank = Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Rank of the adapters.")]
Rate = Annotated[float | None, typer.Option(metavar="R", help="Learning rate. [default: 1e-4; with --full 2e-5]")]
Epochs = Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Passes over the examples at most.")]
Batch = Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Examples per step.")]
Composed = Annotated[
    int,
    typer.Option(
        min=0, max=100, metavar="N", help="Pictures to compose of each labelled one: its objects at other places."
    ),
]
