"""`streamer bench`: measure answers per second by task, and how many cameras that serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.options import Checkpoint
from streamer.core import logs
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.cli.throughput import Rate


def bench(
    model: Checkpoint = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Task to measure; repeat it for several. [default: all]")
    ] = None,
    every: Annotated[str, typer.Option(metavar="T", help="Interval of a camera's task, for the camera count.")] = "1s",
    seconds: Annotated[float, typer.Option(min=0.1, metavar="S", help="Time to measure each task.")] = 5.0,
) -> None:
    """Measure how many cameras this computer can serve.

    The costs are stored for the load estimate of `streamer check`.
    """
    logs.setup("streamer")
    run_bench(model, task or [], every, seconds)


def run_bench(checkpoint: str | None, tasks: Sequence[str], every: str, seconds: float) -> None:
    """Measure these tasks (none: all) for `seconds` each, print a table and store the costs. Raises ConfigError."""
    from streamer.cli.measured_costs import costs_file
    from streamer.cli.throughput import measure
    from streamer.config.model import find_pipeline
    from streamer.config.validation import nearest
    from streamer.core.settings import parse_seconds

    pipeline = find_pipeline()
    specs = pipeline.tasks()
    for task in tasks:
        if task not in specs:
            raise ConfigError(f"--task: unknown task `{task}`{nearest(task, list(specs))}")
    try:
        interval = parse_seconds(every)
    except ValueError as error:
        raise ConfigError(f"--every: {error}") from None
    engine = pipeline.open(pipeline.settings(checkpoint=checkpoint))
    rates = _stored(checkpoint, measure(engine, [specs[task] for task in tasks or specs], seconds))
    for line in table(rates, interval):
        print(line, flush=True)
    print(f"stored in {costs_file()}; `streamer check` uses it to estimate the load of a config")


def _stored(checkpoint: str | None, rates: Iterable[Rate]) -> Iterator[Rate]:
    """Store the cost of each rate that has answers, and pass all rates on."""
    from streamer.cli.measured_costs import store

    for rate in rates:
        if rate.errors < rate.answers:
            store(checkpoint, rate.task, 1 / rate.per_second)
        yield rate


def table(rates: Iterable[Rate], interval: float) -> Iterator[str]:
    """Yield the rates as lines of text, each as soon as it is measured."""
    yield f"{'task':28}{'answers/s':>10}{f'cameras every {interval:g} s':>24}{'errors':>8}"
    for rate in rates:
        yield f"{rate.task:28}{rate.per_second:10.2f}{rate.cameras(interval):24}{rate.errors:8}"
