"""Settings of the address at which other hosts ask for frames."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from streamer.config.bind import Bind, parse_bind
from streamer.core.settings import Settings


class Serve(Settings):
    """Serve the live streams of this agent to other hosts, encrypted, to those of `streamer keys` only."""

    bind: Annotated[Bind, BeforeValidator(parse_bind, json_schema_input_type=str)]
    """Address and port, such as 0.0.0.0:5600 for all addresses of this computer."""
