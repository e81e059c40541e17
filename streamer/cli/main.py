"""The `streamer` command: registers one command per module of this package.

Command modules import heavy packages only inside functions, so that `streamer --help` starts fast.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from streamer import __version__
from streamer.cli.ask import ask
from streamer.cli.bench import bench
from streamer.cli.check import check
from streamer.cli.demo import demo
from streamer.cli.doctor import doctor
from streamer.cli.events import events
from streamer.cli.run import run
from streamer.cli.schedule import schedule
from streamer.cli.schema import schema
from streamer.cli.task import app as task_app
from streamer.cli.tasks import tasks
from streamer.cli.top import top
from streamer.cli.watch import watch
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.core.redact import redact

app = typer.Typer(
    help="Run Florence-2 on live video and publish captions, boxes and text as CloudEvents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (run, doctor, watch, check, schedule, tasks, schema, events, ask, top, bench, demo):
    app.command()(command)
app.add_typer(task_app, name="task")


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 the user must change something, 130 interrupted."""
    try:
        app()
    except ConfigError as error:
        print(f"streamer: {redact(str(error))}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except Exception:
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
