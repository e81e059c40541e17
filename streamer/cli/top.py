"""`streamer top`: show a running agent as a table in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from streamer.cli.options import RunningAgent


def top(
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    agent: RunningAgent = None,
) -> None:
    """Show streams, tasks, rates, ages and drops of a running agent."""
    import asyncio

    from streamer.cli.top_screen import show

    try:
        asyncio.run(show(agent, once))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
