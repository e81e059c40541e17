"""`streamer check`: validate a config and print its contents and its expected load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.options import ConfigFile
from streamer.core.redact import redact

if TYPE_CHECKING:
    from streamer.config.model import Config


def check(
    config: ConfigFile,
    probe: Annotated[bool, typer.Option("--probe", help="Open each source and print its frame size and rate.")] = False,
) -> None:
    """Check a config; with --probe, open its sources."""
    from streamer.cli.probe import probe_all
    from streamer.config.model import load

    loaded = load(config)
    for target in (*loaded.sinks, *loaded.outputs):
        target.check()
    if probe:
        raise typer.Exit(0 if probe_all(loaded) else 1)
    print(f"{config} is valid: agent {loaded.name}")
    _print_contents(loaded)


def _print_contents(config: Config) -> None:
    from streamer.cli.load_estimate import describe, estimate, percent

    load = estimate(config)
    print(f"  model: {_keys(config.model)}")
    for name, stream in config.streams.items():
        print(f"  stream {name}: {_keys(stream.source)}")
        for task in stream.tasks:
            share = load.by_task[name, task.name] if load else 0.0
            suffix = f", load {percent(share)}" if share else ""
            print(f"    {task.name}: {task.task}, {task.describe_schedule}{suffix}")
    for sink in config.sinks:
        print(f"  sink {_keys(sink)}")
    for output in config.outputs:
        print(f"  output {output.label}: {_keys(output)}")
    if config.web is not None:
        print(f"  page: http://{config.web.bind}{', with a token' if config.web.token else ''}")
    for line in describe(config, load):
        print(f"  {line}")


def _keys(settings: Any) -> str:
    """Return the keys and values of a settings object on one line, without unset ones and without secrets."""
    return redact(", ".join(f"{key} {value}" for key, value in settings if value is not None))
