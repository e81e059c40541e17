"""`streamer dataset collect`: pictures for a dataset. The other commands of the group are those of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamer.core.progress import tell

app = typer.Typer(help="Make datasets of pictures with answers, and convert them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `collect` a command of the group `dataset`."""


@app.command()
def collect(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="STREAM|FOLDER|SOURCE|agent:NAME",
            help="A stream of the config, a folder of pictures, a source such as a video file, or what the "
            "`collect` of an agent has stored.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the dataset; it is made if there is none.")],
    config: Annotated[Path | None, typer.Option(metavar="CONFIG", help="YAML config file with the stream.")] = None,
    every: Annotated[
        str, typer.Option(metavar="T", help="Time between two frames of a source: 500ms, 1s, 5m.")
    ] = "10s",
    most: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures to add at most.")] = 1000,
) -> None:
    """Add pictures to a dataset.

    Pictures that repeat an earlier one or show nothing are left out. `pictures.jsonl` in the folder names the camera
    and the time of each. An interrupted run can be repeated.
    """
    from streamer.cli.collect_pictures import AGENT, collect_agent, collect_folder, collect_source
    from streamer.cli.source_frames import find_sources
    from streamer.config.collect import masks_of
    from streamer.config.model import load
    from streamer.core import logs
    from streamer.core.dataset_folder import DatasetFolder
    from streamer.core.settings import option_seconds

    logs.setup("streamer", "warning")
    interval = option_seconds("--every", every)
    loaded = load(config) if config else None
    folder = Path(source).expanduser()
    is_agent = source.startswith(AGENT)
    is_folder = folder.is_dir() and not is_agent and not (loaded and source in loaded.streams)
    sources = {} if is_folder or is_agent else find_sources(loaded, source)
    with DatasetFolder(out) as dataset:
        if is_agent:
            counts = collect_agent(source.removeprefix(AGENT), dataset, most, tell)
        elif is_folder:
            counts = collect_folder(folder, dataset, most, tell)
        else:
            ((name, settings),) = sources.items()
            stream = loaded.streams.get(name) if loaded else None
            masks = masks_of(stream.collect, stream.zones) if stream and stream.collect else ()
            counts = collect_source(name, settings, masks, interval, dataset, most, tell)
    typer.echo(
        f"{out}: {counts.added} new pictures, {counts.known} known, {counts.repeated} repeat another one, "
        f"{counts.empty} show nothing, {counts.unreadable} unreadable"
    )
    raise typer.Exit(1 if counts.unreadable else 0)
