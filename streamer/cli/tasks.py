"""`streamer tasks`: list the tasks that the model can run."""

from __future__ import annotations


def tasks() -> None:
    """List the tasks, their inputs and their results."""
    from rich.console import Console
    from rich.table import Column, Table

    from streamer.config.model import find_pipeline

    table = Table(
        Column("task", no_wrap=True), "takes", "gives", "what it does", box=None, pad_edge=False, header_style="bold"
    )
    for spec in find_pipeline().tasks().values():
        takes = [key for key, needed in (("text", spec.takes_text), ("region", spec.takes_region)) if needed]
        table.add_row(spec.task, ", ".join(takes) or "-", spec.result.replace("_", " "), spec.summary)
    console = Console()
    console.print(table, soft_wrap=not console.is_terminal)
