"""`streamer watch`: run one task on one source, without a config file."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from streamer.cli.options import Checkpoint, Every, RegionText, TaskType, Text, given
from streamer.cli.run import supervise
from streamer.core.errors import ConfigError


def watch(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Source: rtsp://…, http://…, /dev/video0, clip.mp4 or synthetic."),
    ],
    task: TaskType,
    text: Text = None,
    region: RegionText = None,
    every: Every = None,
    model: Checkpoint = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="S", help="Stop S seconds after the first frame.")
    ] = None,
    max_events: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N events.")] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Stream name in events.")] = "watch",
) -> None:
    """Run one task on one source.

    Events go to standard output as JSON Lines, the log to standard error.
    """
    from streamer.config.model import from_mapping

    data: dict[str, Any] = {
        "agent": "watch",
        "model": {"checkpoint": model} if model else {},
        "streams": {name: {"source": source, "tasks": [given(task=task, text=text, region=region, every=every)]}},
        "sinks": [{"kind": "stdout"}],
    }
    try:
        config = from_mapping(data)
    except ConfigError as error:
        raise ConfigError(_with_option_names(str(error), name)) from None
    supervise(config, seconds=seconds, max_events=max_events, keep_state=False)


def _with_option_names(message: str, stream: str) -> str:
    """Return a config error with the command's arguments in place of config keys."""
    prefix = f"streams.{re.escape(stream)}"
    for pattern, replacement in (
        (rf"^{prefix}\.source", "SOURCE"),
        (rf"^{prefix}\.tasks\[0\]\.(\w+): ", r"--\1: "),
        (rf"^{prefix}\.tasks\[0\]: `(\w+)` is missing", r"--\1 is missing"),
        (rf"^{prefix}: ", "--name: "),
        (r"^model(\.checkpoint)?: ", "--model: "),
    ):
        message = re.sub(pattern, replacement, message, flags=re.MULTILINE)
    return message
