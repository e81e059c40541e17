"""`streamer schema`: print the JSON Schema of configs or of events."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer


def schema(
    of: Annotated[Literal["config", "event"], typer.Argument(metavar="{config|event}", help="Schema to print.")],
) -> None:
    """Print the JSON Schema of a config file or of an event."""
    if of == "config":
        from streamer.config.model import json_schema as make
    else:
        from streamer.events.schema import schema as make
    print(json.dumps(make(), indent=2))
