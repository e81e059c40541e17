"""The command line. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer import __version__, logs
from streamer.errors import ConfigError
from streamer.redact import redact

if TYPE_CHECKING:
    from streamer.config import Agent

EXIT_CONFIG = 2

app = typer.Typer(
    help="Asks Florence-2 about live video and turns the answers into events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, see configs/.")]
AtMost = Annotated[float | None, typer.Option("--seconds", min=0.1, metavar="S", help="Stop after S seconds.")]


def main() -> None:
    """The `streamer` command. Exit codes: 0 done, 1 failed, 2 the user must change something, 130 interrupted."""
    try:
        app()
    except ConfigError as error:
        print(f"streamer: {redact(str(error))}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"streamer {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigFile) -> None:
    """Run a config until stopped."""
    from streamer.config import load

    _supervise(load(config))


@app.command()
def watch(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="rtsp://…, /dev/video0, clip.mp4, synthetic, …")],
    task: Annotated[str, typer.Option(help="What is asked, see `streamer tasks`.")],
    text: Annotated[str | None, typer.Option(help="The task's text, where it takes one.")] = None,
    region: Annotated[
        str | None, typer.Option(metavar="x0,y0,x1,y1", help="The task's region in fractions of the frame.")
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="T", help="How often: 500ms, 1s, 5m. [default: 1s]")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder of a checkpoint. [default: the small model inside]")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="S", help="Stop S seconds after the first frame.")
    ] = None,
    max_events: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N events.")] = None,
    name: Annotated[str, typer.Option(help="Name of the stream in the events.")] = "watch",
) -> None:
    """Ask one thing of one source.

    Events go to standard output as JSON Lines, logs to standard error.
    """
    from streamer.config import from_mapping

    given = {"task": task, "text": text, "region": region, "every": every}
    config: dict[str, Any] = {
        "agent": "watch",
        "model": {"checkpoint": model} if model else {},
        "streams": {
            name: {"source": source, "tasks": [{key: value for key, value in given.items() if value is not None}]}
        },
        "sinks": [{"kind": "stdout"}],
    }
    try:
        agent = from_mapping(config)
    except ConfigError as error:
        raise ConfigError(_as_options(str(error), name)) from None
    _supervise(agent, seconds=seconds, max_events=max_events, keep_state=False)


def _as_options(message: str, name: str) -> str:
    """A config error in the words of `watch`'s own arguments."""
    stream = f"streams.{re.escape(name)}"
    for pattern, words in (
        (rf"^{stream}\.source", "SOURCE"),
        (rf"^{stream}\.tasks\[0\]\.(\w+): ", r"--\1: "),
        (rf"^{stream}\.tasks\[0\]: `(\w+)` is missing", r"--\1 is missing"),
        (rf"^{stream}: ", "--name: "),
        (r"^model(\.checkpoint)?: ", "--model: "),
    ):
        message = re.sub(pattern, words, message, flags=re.MULTILINE)
    return message


@app.command()
def check(
    config: ConfigFile,
    probe: Annotated[bool, typer.Option("--probe", help="Open each source for a moment.")] = False,
) -> None:
    """Check a config, and its sources with --probe."""
    from streamer.config import load

    agent = load(config)
    for place in (*agent.sinks, *agent.outputs):
        place.check()
    if probe:
        from streamer.probe import probe_all

        raise typer.Exit(0 if probe_all(agent) else 1)
    print(f"{config} is good: agent {agent.agent}")
    print(f"  model: {_words(agent.model)}")
    for name, stream in agent.streams.items():
        print(f"  stream {name}: {_words(stream.source)}")
        for task in stream.tasks:
            print(f"    {task.name}: {task.task}, {task.when}")
    for sink in agent.sinks:
        print(f"  sink {_words(sink)}")
    for output in agent.outputs:
        print(f"  output {output.label}: {_words(output)}")
    if agent.web is not None:
        print(f"  page: http://{agent.web.bind}{', with a token' if agent.web.token else ''}")


def _words(settings: Any) -> str:
    """A settings object on one line, without what was left out."""
    return redact(", ".join(f"{key} {value}" for key, value in settings if value is not None))


@app.command()
def schedule(
    config: ConfigFile,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="ISO time. [default: now]")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="ISO time. [default: a day later]")] = None,
) -> None:
    """Show when the tasks of a config would run, without a camera."""
    from streamer.config import load
    from streamer.preview import print_schedule

    print_schedule(load(config), start, end)


@app.command()
def tasks() -> None:
    """List the tasks and what they take."""
    from rich.console import Console
    from rich.table import Table

    from streamer.config import find_pipeline

    table = Table("task", "takes", "gives", "what it does", box=None, pad_edge=False, header_style="bold")
    for spec in find_pipeline().tasks().values():
        takes = [word for word, needed in (("text", spec.takes_text), ("region", spec.takes_region)) if needed]
        table.add_row(spec.task, ", ".join(takes) or "-", spec.result.replace("_", " "), spec.summary)
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)


@app.command()
def schema(
    what: Annotated[Literal["config", "event"], typer.Argument(help="Of a config file, or of an event.")],
) -> None:
    """Print a JSON Schema."""
    if what == "config":
        from streamer.config import json_schema as make
    else:
        from streamer.events import schema as make
    print(json.dumps(make(), indent=2))


@app.command()
def events(
    connect: Annotated[str, typer.Option(metavar="ENDPOINT", help="Address of a zmq sink: ipc:///path/of/bus.sock")],
    stream: Annotated[str | None, typer.Option(help="Only of this stream.")] = None,
    task: Annotated[str | None, typer.Option(help="Only of the task with this name.")] = None,
) -> None:
    """Print the events of a running agent."""
    from streamer.events import encode
    from streamer.subscriber import subscribe

    try:
        for event in subscribe(connect, stream, task):
            print(encode(event).decode(), flush=True)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def bench(
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder of a checkpoint. [default: the small model inside]")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given again. [default: all]")] = None,
    every: Annotated[str, typer.Option(metavar="T", help="The interval that cameras are counted for.")] = "1s",
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="How long each task is measured.")] = 5.0,
) -> None:
    """Measure how many cameras this computer can carry."""
    from streamer.bench import run_bench

    logs.setup("streamer")
    run_bench(model, task or [], every, seconds)


@app.command()
def demo(seconds: AtMost = None) -> None:
    """Show the small model's answers beside the truth."""
    from streamer.demo import run_demo

    raise typer.Exit(run_demo(seconds))


def _supervise(agent: Agent, **options: Any) -> None:
    from streamer import supervise

    logs.setup("streamer")
    supervise.run(agent, **options)
