"""`streamer train`: fine-tune a checkpoint on examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import Batch, Checkpoint, Composed, Device, Epochs, Full, Rank, Rate, Vision
from streamer.core.errors import ConfigError
from streamer.core.progress import tell


def train(
    examples: Annotated[Path, typer.Argument(metavar="EXAMPLES", help="JSON Lines of `streamer dataset examples`.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for the trained checkpoint.")],
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="EXAMPLES", help="Examples that judge the training. [default: the last fifth of EXAMPLES]"
        ),
    ] = None,
    rehearse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="EXAMPLES", help="Examples of what the model must not forget; repeat it for several files."
        ),
    ] = None,
    model: Checkpoint = None,
    full: Full = False,
    vision: Vision = False,
    rank: Rank = 16,
    rate: Rate = None,
    epochs: Epochs = 8,
    batch: Batch = 8,
    composed: Composed = 0,
    augment: Annotated[bool, typer.Option(help="Vary light, colour, side and size of the pictures.")] = True,
    device: Device = "auto",
) -> None:
    """Train a checkpoint on examples.

    Adapters (LoRA) of its text part are trained, or with --full all weights.

    Training ends when the loss of the held-out examples no longer falls. Give them from a later time than the others:
    neighbouring frames are nearly equal. An interrupted run continues with the same command. The new checkpoint is used
    by its folder: `model: {checkpoint: FOLDER}`.
    """
    from pydantic import ValidationError

    from pipelines.florence2.checkpoint_files import open_folder
    from pipelines.florence2.examples import Example, read_examples
    from pipelines.florence2.finetune.run import train as run
    from pipelines.florence2.finetune.settings import TrainingSettings
    from streamer.core.picture_files import read_picture
    from streamer.core.printable import counted
    from streamer.core.settings import in_words

    def read(path: Path) -> list[Example]:
        """Return examples with the pictures' paths from the working folder."""
        return [replace(one, image=str(path.parent / one.image)) for one in read_examples(path)]

    try:
        settings = TrainingSettings(
            full=full,
            vision=vision,
            rank=rank,
            rate=rate,
            epochs=epochs,
            batch=batch,
            augment=augment,
            composed=composed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {in_words(first)}") from None
    learned = read(examples)
    if held_out is None:
        # The order of the file is taken for that of time.
        first_judge = max(1, len(learned) * 4 // 5)
        learned, judges = learned[:first_judge], learned[first_judge:]
    else:
        judges = read(held_out)
    rehearsed = [one for path in rehearse or () for one in read(path)]
    record = run(
        *(open_folder(model), out, settings, learned, judges),
        *(lambda name: read_picture(Path(name)), tell, device, rehearsed),
    )
    typer.echo(
        f"{out}: held-out loss {record['held_out_loss_before']:.4f} before, {record['best']:.4f} after "
        f"{counted(record['best_step'], 'step')}"
    )
