"""`streamer task`: change the tasks of a running agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.client import REPLY_TIMEOUT_S, call
from streamer.cli.options import (
    Every,
    FurtherKeys,
    RegionText,
    RunningAgent,
    StreamName,
    Text,
    ZoneName,
    given,
    with_further_keys,
)

if TYPE_CHECKING:
    from streamer.bus.commands import Action

TaskName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the task.")]
Save = Annotated[bool, typer.Option("--save", help="Keep the change when the agent is restarted.")]

app = typer.Typer(help="Change the tasks of a running agent.", no_args_is_help=True)


@app.command()
def add(
    stream: StreamName,
    task: Annotated[str, typer.Argument(metavar="TASK", help="Task to run, see `streamer tasks`.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Task name in events. [default: TASK]")] = None,
    text: Text = None,
    region: RegionText = None,
    zone: ZoneName = None,
    every: Every = None,
    when: Annotated[
        str | None,
        typer.Option(metavar="TRIGGER", help="Run always, or only after motion or change. [default: always]"),
    ] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="Priority: high, normal, low. [default: normal]")
    ] = None,
    further: FurtherKeys = None,
    save: Save = False,
    agent: RunningAgent = None,
) -> None:
    """Add a task to a stream."""
    entry = given(task=task, name=name, text=text, region=region, zone=zone, every=every, when=when, priority=priority)
    _change(agent, "add", stream, name or task, save, with_further_keys(entry, further))


@app.command()
def remove(stream: StreamName, name: TaskName, save: Save = False, agent: RunningAgent = None) -> None:
    """Remove a task."""
    _change(agent, "remove", stream, name, save)


@app.command()
def pause(stream: StreamName, name: TaskName, save: Save = False, agent: RunningAgent = None) -> None:
    """Stop running a task until it is resumed."""
    _change(agent, "pause", stream, name, save)


@app.command()
def resume(stream: StreamName, name: TaskName, save: Save = False, agent: RunningAgent = None) -> None:
    """Resume a paused task."""
    _change(agent, "resume", stream, name, save)


def _change(
    agent: str | None, action: Action, stream: str, name: str, save: bool, task: dict[str, Any] | None = None
) -> None:
    """Request a change and print what was done."""
    from streamer.bus.commands import ChangeTask

    command = ChangeTask(op=action, stream=stream, name=name, task=task, save=save)
    print(call(agent, REPLY_TIMEOUT_S, command)["done"])
