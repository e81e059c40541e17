"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from streamer.core.errors import ConfigError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file; configs/ has examples.")]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="INDEX/COUNT",
        help="Run a part of the streams: 0/3 is the first of three agents with this config. [default: all streams]",
    ),
]
RunningAgent = Annotated[
    str | None,
    typer.Option("--agent", metavar="NAME", help="Name or state folder of a running agent. [default: the only one]"),
]
StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="Stream of the running agent.")]
TaskType = Annotated[str, typer.Option(metavar="TASK", help="Task to run, see `streamer tasks`.")]
Text = Annotated[str | None, typer.Option(metavar="TEXT", help="Text of the task, if it takes one.")]
RegionText = Annotated[
    str | None,
    typer.Option(metavar="x0,y0,x1,y1", help="Region of the task in fractions of the frame, if it takes one."),
]
ZoneName = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Zone of the stream; the model sees nothing outside it.")
]
Every = Annotated[str | None, typer.Option(metavar="T", help="Time between two runs: 500ms, 1s, 5m. [default: 1s]")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Checkpoint: its folder, or its name on the Hugging Face hub. [default: the small model that is included]",
    ),
]

FurtherKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Further key of the task, as in a config: `tiles=2x2`, `min_score=0.5`, "
        '`then=[{"task": "region_to_ocr"}]`; repeat it for several.',
    ),
]


def given(**options: str | None) -> dict[str, Any]:
    """Return the options that have a value, as keys of a config."""
    return {key: value for key, value in options.items() if value is not None}


def with_further_keys(entry: dict[str, Any], further: list[str] | None) -> dict[str, Any]:
    """Return the keys of a task with those of `--set`; a value is JSON or else a text. Raises ConfigError."""
    entry = dict(entry)
    for assignment in further or ():
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE, such as `min_score=0.5`")
        if key in entry:
            raise ConfigError(f"--set {key}: the key is given twice")
        try:
            entry[key] = json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            entry[key] = value
    return entry


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # JSON has no NaN; the text is refused like any other wrong value
