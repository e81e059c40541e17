"""The `streamer` command: registers one command per module of this package.

Command modules import heavy packages only inside functions, so that `streamer --help` starts fast.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from streamer import __version__
from streamer.cli.ask import ask
from streamer.cli.bench import bench
from streamer.cli.check import check
from streamer.cli.cluster import app as cluster_app
from streamer.cli.dataset import app as dataset_app
from streamer.cli.demo import demo
from streamer.cli.doctor import doctor
from streamer.cli.events import events
from streamer.cli.keys import app as keys_app
from streamer.cli.model import app as model_app
from streamer.cli.review_page import serve_review
from streamer.cli.rules import app as rules_app
from streamer.cli.run import run
from streamer.cli.schedule import schedule
from streamer.cli.schema import schema
from streamer.cli.task import app as task_app
from streamer.cli.tasks import tasks
from streamer.cli.top import top
from streamer.cli.watch import watch
from streamer.core import logs
from streamer.core.errors import EXIT_CONFIG, ConfigError, StreamerError
from streamer.core.printable import printable
from streamer.core.reasons import internal_error
from streamer.core.redact import redact
from streamer.core.user import complete_environment

_UsageError: Any = typer.BadParameter.__mro__[2]
"""The base class of typer's errors for the user, which typer does not export."""

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
app.add_typer(model_app, name="model")
app.add_typer(rules_app, name="rules")
app.add_typer(keys_app, name="keys")
app.add_typer(cluster_app, name="cluster")
app.add_typer(dataset_app, name="dataset")
# Commands of the pipelines are found like the pipelines, so that this package imports none of them.
for entry in sorted(entry_points(group="streamer.commands")):
    loaded = entry.load()
    if entry.name == "dataset":
        dataset_app.add_typer(loaded)  # further commands of the group
    elif isinstance(loaded, typer.Typer):
        app.add_typer(loaded, name=entry.name)
    else:
        app.command(entry.name)(loaded)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 the user must change something, 130 interrupted."""
    complete_environment()
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):  # events are UTF-8 in every locale, file names may be anything
            output.reconfigure(encoding="utf-8", errors="backslashreplace")
    logs.log_uncaught()
    try:
        code = app(standalone_mode=False)
    except ConfigError as error:
        code = _fail(EXIT_CONFIG, f"streamer: {error}")
    except _UsageError as error:
        message = io.StringIO()
        error.show(message)  # may repeat an argument, such as a URL with a password
        code = _fail(error.exit_code, message.getvalue().rstrip())
    except typer.Abort:
        code = _fail(1, "streamer: aborted")
    except StreamerError as error:
        code = _fail(1, f"streamer: {error}")
    except Exception as error:
        reason = internal_error(error, "command")
        no_text = [one for one in sys.argv if any("\ud800" <= char <= "\udfff" for char in one)]
        code = (
            _fail(EXIT_CONFIG, f"streamer: `{no_text[0]}` is not text in UTF-8")
            if no_text
            else _fail(1, f"streamer: {reason}")
        )
    sys.exit(code)


def _fail(code: int, message: str) -> int:
    """Print a message without secrets and return the exit code. Texts of configs and agents are harmless in it."""
    print("\n".join(printable(line) for line in redact(message).split("\n")), file=sys.stderr)
    return code


def _print_version(requested: bool) -> None:
    if requested:
        print(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the log, with the stack of an internal error.")] = False,
) -> None:
    context.obj = serve_review  # commands of the pipelines import no web server
    if debug:
        logs.setup("streamer", "debug")
