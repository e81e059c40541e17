"""`streamer run`: run the agent of a config."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer.cli.options import ConfigFile, ShardText
from streamer.core import limits, logs

if TYPE_CHECKING:
    from streamer.config.model import Config

LogFormat = Literal["text", "json"]
NO_STREAMS = "none"
"""Value of `--streams`: the agent begins without streams and waits for a command."""


def run(
    config: ConfigFile,
    log_format: Annotated[LogFormat, typer.Option(help="Log format.")] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Minimum log level.")
    ] = "info",
    streams: Annotated[
        str | None,
        typer.Option(
            metavar="STREAMS", help="Streams to begin with, such as `gate,yard`, or `none`. [default: all streams]"
        ),
    ] = None,
    shard: ShardText = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Host of the config's `cluster` that this agent is. [default: none]"),
    ] = None,
) -> None:
    """Run an agent until it is stopped.

    The log goes to standard error.
    """
    # SIGTERM and SIGINT stay pending until the supervisor handles them. An exception raised by a handler during the
    # imports could end in a callback of the interpreter, which discards it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from streamer.cli.shards import load_shard
    from streamer.config.model import at_host

    loaded, is_empty = load_shard(config, shard)
    if host is not None:
        loaded = at_host(loaded, host)
    if is_empty:
        streams = NO_STREAMS  # a StatefulSet keeps this pod, and a config with more streams may give it some
    supervise(loaded, log_level, log_format, streams=None if streams is None else _names(streams, loaded))


def _names(option: str, config: Config) -> list[str]:
    """Return the streams in the value of `--streams`. Raises ConfigError if the config lacks one."""
    from streamer.config.changes import raw_stream

    names = [] if option == NO_STREAMS else [name.strip() for name in option.split(",")]
    for name in names:
        raw_stream(config, name)
    return names


def supervise(config: Config, log_level: str = "info", log_format: LogFormat = "text", **options: Any) -> None:
    """Set up the log and run the supervisor with these options until the agent ends."""
    from streamer.processes import supervisor

    logs.setup("streamer", log_level, log_format)
    limits.prepare(len(config.streams))
    supervisor.run(config, log_level=log_level, log_format=log_format, **options)
