"""`streamer top`: show a running agent as a table in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.client import REPLY_TIMEOUT_S, call
from streamer.cli.options import RunningAgent
from streamer.core.paths import find_running

if TYPE_CHECKING:
    from rich.console import Console

    from streamer.web.monitor.capture_poller import CapturePoller
    from streamer.web.monitor.event_follower import EventFollower

REFRESH_S = 0.5
TASKS_S = 2.0
"""Interval at which the task list is requested from the agent, because tasks can change."""
ONCE_S = 2.0
"""Time to measure rates before a table that is printed once."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    agent: RunningAgent = None,
) -> None:
    """Show streams, tasks, rates, ages and drops of a running agent."""
    try:
        asyncio.run(_run(agent, once))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _run(agent: str | None, once: bool) -> None:
    """Draw the table until interrupted, or print it once if asked to or if the output is not a terminal."""
    from rich.console import Console

    from streamer.cli.top_table import table
    from streamer.events.ledger.query import LedgerQuery
    from streamer.web.monitor.capture_poller import CapturePoller
    from streamer.web.monitor.event_follower import EventFollower

    _, runtime = find_running(agent)
    tasks = await _list_tasks(agent)
    console = Console()
    with (
        contextlib.closing(LedgerQuery(Path(tasks["ledger"]))) as query,
        CapturePoller(runtime, tasks["streams"]) as capture,
    ):
        events = EventFollower(query)
        following = asyncio.create_task(events.run())
        try:
            if once or not console.is_terminal:
                await asyncio.sleep(ONCE_S)
                console.print(table(tasks, capture, events), soft_wrap=not console.is_terminal)
            else:
                await _draw(agent, tasks, capture, events, console)
        finally:
            events.close()
            await following


async def _draw(
    agent: str | None, tasks: dict[str, Any], capture: CapturePoller, events: EventFollower, console: Console
) -> None:
    """Redraw the table until cancelled. Raises ConfigError when the agent stops answering."""
    from rich.live import Live

    from streamer.cli.top_table import table

    requested = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(table(tasks, capture, events), refresh=True)
            await asyncio.sleep(REFRESH_S)
            if time.monotonic() - requested > TASKS_S:
                requested = time.monotonic()
                tasks = await _list_tasks(agent)


async def _list_tasks(agent: str | None) -> dict[str, Any]:
    """Return agent name, ledger path and the tasks of each stream."""
    return await asyncio.to_thread(call, agent, REPLY_TIMEOUT_S, op="list")
