"""The command line. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamer import __version__
from streamer.core import logs
from streamer.core.errors import ConfigError
from streamer.core.redact import redact

if TYPE_CHECKING:
    from streamer.config.model import Config

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
def run(
    config: ConfigFile,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of the log on standard error.")] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is logged.")
    ] = "info",
) -> None:
    """Run a config until stopped."""
    # Asked to stop before the supervisor can hear it: that waits. What a handler raises while modules are imported may
    # end in a callback of Python's own, where it is lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from streamer.config.model import load

    _supervise(load(config), log_format=log_format, log_level=log_level)


@app.command()
def doctor(config: ConfigFile) -> None:
    """Look whether this computer can run a config.

    Each line says ok, warn or fail, and what to do. Ends with 1 when something fails.
    """
    from streamer.cli.doctor import examine
    from streamer.config.model import load

    raise typer.Exit(examine(load(config), config))


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
    from streamer.config.model import from_mapping

    given = {"task": task, "text": text, "region": region, "every": every}
    data: dict[str, Any] = {
        "agent": "watch",
        "model": {"checkpoint": model} if model else {},
        "streams": {
            name: {"source": source, "tasks": [{key: value for key, value in given.items() if value is not None}]}
        },
        "sinks": [{"kind": "stdout"}],
    }
    try:
        config = from_mapping(data)
    except ConfigError as error:
        raise ConfigError(_as_options(str(error), name)) from None
    _supervise(config, seconds=seconds, max_events=max_events, keep_state=False)


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
    from streamer.cli.load_estimate import load_of, percent, words
    from streamer.config.model import load

    loaded = load(config)
    for place in (*loaded.sinks, *loaded.outputs):
        place.check()
    if probe:
        from streamer.cli.probe import probe_all

        raise typer.Exit(0 if probe_all(loaded) else 1)
    print(f"{config} is good: agent {loaded.name}")
    print(f"  model: {_words(loaded.model)}")
    expected = load_of(loaded)
    for name, stream in loaded.streams.items():
        print(f"  stream {name}: {_words(stream.source)}")
        for task in stream.tasks:
            share = expected.by_task[name, task.name] if expected else 0.0
            print(
                f"    {task.name}: {task.task}, {task.describe_schedule}"
                + (f", load {percent(share)}" if share else "")
            )
    for sink in loaded.sinks:
        print(f"  sink {_words(sink)}")
    for output in loaded.outputs:
        print(f"  output {output.label}: {_words(output)}")
    if loaded.web is not None:
        print(f"  page: http://{loaded.web.bind}{', with a token' if loaded.web.token else ''}")
    for line in words(loaded, expected):
        print(f"  {line}")


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
    from streamer.cli.schedule import print_schedule
    from streamer.config.model import load

    print_schedule(load(config), start, end)


@app.command()
def tasks() -> None:
    """List the tasks and what they take."""
    from rich.console import Console
    from rich.table import Table

    from streamer.config.model import find_pipeline

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
        from streamer.config.model import json_schema as make
    else:
        from streamer.events.schema import schema as make
    print(json.dumps(make(), indent=2))


@app.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Of the last 10m, 2h, 7d. [default: the newest 50]")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Only of this stream.")] = None,
    task: Annotated[str | None, typer.Option(help="Only of the task with this name, or such as stream.down.")] = None,
    search: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Only with all these words in caption, labels, text.")
    ] = None,
    export: Annotated[Literal["jsonl", "csv"] | None, typer.Option(help="All of them, for other programs.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Whose. [default: the only one here]")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="List what sinks refused instead.")] = False,
    resend: Annotated[str | None, typer.Option(metavar="SINK", help="Have a sink try again what it refused.")] = None,
) -> None:
    """Show the events of an agent of this computer, running or not."""
    from streamer.cli import events

    try:
        ledger = events.find_ledger(agent)
        if resend is not None:
            print(f"{events.resend(ledger, resend)} events will be tried again by {resend}")
        elif dead:
            events.print_dead(ledger)
        else:
            events.print_events(ledger, stream, task, search, since, follow, export)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


AgentName = Annotated[
    str | None, typer.Option("--agent", help="Name or state folder of a running agent. [default: the only one]")
]
StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="A stream of the running agent.")]
TaskName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the task.")]
Text = Annotated[str | None, typer.Option(help="The task's text, where it takes one.")]
RegionText = Annotated[
    str | None, typer.Option(metavar="x0,y0,x1,y1", help="The task's region in fractions of the frame.")
]
ZoneName = Annotated[str | None, typer.Option(help="The zone of the stream that the model sees.")]
Save = Annotated[bool, typer.Option("--save", help="Also after the agent's next start.")]


@app.command()
def ask(
    stream: StreamName,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.")] = None,
    task: Annotated[str | None, typer.Option(help="What is asked. [default: where TEXT is]")] = None,
    region: RegionText = None,
    zone: ZoneName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as an event.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="How long to wait.")] = 30.0,
    agent: AgentName = None,
) -> None:
    """Ask a running agent about a stream's newest picture, once."""
    from streamer.cli import client

    if task is None and text is None:
        raise ConfigError("say what to look for, or what to ask with --task")
    entry = {"task": task or client.PHRASE_TASK, "text": text, "region": region, "zone": zone}
    given = {key: value for key, value in entry.items() if value is not None}
    raise typer.Exit(client.ask(agent, stream, given, seconds, as_json))


@app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    agent: AgentName = None,
) -> None:
    """Show how a running agent is: streams, tasks, ages, rates, drops."""
    from streamer.cli.top import watch_agent

    try:
        watch_agent(agent, once)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


tasks_of_agent = typer.Typer(help="Change the tasks of a running agent.", no_args_is_help=True)
app.add_typer(tasks_of_agent, name="task")


@tasks_of_agent.command("add")
def task_add(
    stream: StreamName,
    task: Annotated[str, typer.Argument(metavar="TASK", help="What is asked, see `streamer tasks`.")],
    name: Annotated[str | None, typer.Option(help="Its name in events. [default: the task]")] = None,
    text: Text = None,
    region: RegionText = None,
    zone: ZoneName = None,
    every: Annotated[str | None, typer.Option(metavar="T", help="How often: 500ms, 1s, 5m. [default: 1s]")] = None,
    when: Annotated[str | None, typer.Option(help="always, motion, change. [default: always]")] = None,
    priority: Annotated[str | None, typer.Option(help="high, normal, low. [default: normal]")] = None,
    save: Save = False,
    agent: AgentName = None,
) -> None:
    """Have a running agent ask one thing more."""
    from streamer.cli import client

    entry = {
        "task": task, "name": name, "text": text, "region": region, "zone": zone,
        "every": every, "when": when, "priority": priority,
    }  # fmt: skip
    given = {key: value for key, value in entry.items() if value is not None}
    client.change(agent, "add", stream, name or task, given, save)


@tasks_of_agent.command("remove")
def task_remove(stream: StreamName, name: TaskName, save: Save = False, agent: AgentName = None) -> None:
    """Have it no longer asked."""
    from streamer.cli import client

    client.change(agent, "remove", stream, name, None, save)


@tasks_of_agent.command("pause")
def task_pause(stream: StreamName, name: TaskName, save: Save = False, agent: AgentName = None) -> None:
    """Have it not asked until it is resumed."""
    from streamer.cli import client

    client.change(agent, "pause", stream, name, None, save)


@tasks_of_agent.command("resume")
def task_resume(stream: StreamName, name: TaskName, save: Save = False, agent: AgentName = None) -> None:
    """Have it asked again."""
    from streamer.cli import client

    client.change(agent, "resume", stream, name, None, save)


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
    from streamer.cli.bench import run_bench

    logs.setup("streamer")
    run_bench(model, task or [], every, seconds)


@app.command()
def demo(seconds: AtMost = None) -> None:
    """Show the small model's answers beside the truth."""
    from streamer.cli.demo import run_demo

    raise typer.Exit(run_demo(seconds))


def _supervise(
    config: Config, log_level: str = "info", log_format: Literal["text", "json"] = "text", **options: Any
) -> None:
    from streamer.processes import supervisor

    logs.setup("streamer", log_level, log_format)
    supervisor.run(config, log_level=log_level, log_format=log_format, **options)
