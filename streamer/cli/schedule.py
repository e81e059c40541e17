"""`streamer schedule`: list when the tasks of a config would run in a period, without opening a camera.

The calculation assumes that the agent starts with the period, every camera delivers frames, and the model keeps up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from streamer.cli.options import ConfigFile
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.config.calendar import Cron
    from streamer.config.model import Config
    from streamer.config.task import ScheduledTask
    from streamer.types import Pace

DAY_S = 86400.0
WIDTH = 160
"""Characters per line if standard output is not a terminal."""
MAX_TIMES = 12
"""Runs listed with their times; more are only counted."""
MAX_RUNS = 100_000
"""Runs of a cron line that are counted, to bound the time of the command."""
MAX_S = 400 * DAY_S
"""Longest period in seconds: covers every date of a year."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs of one task in the period, as printed."""

    runs: str
    """Number of runs, or `-` where it depends on the frames."""
    when: str


def schedule(
    config: ConfigFile,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Start of the period, ISO 8601. [default: now]")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the period, ISO 8601. [default: a day later]")
    ] = None,
) -> None:
    """Show when the tasks of a config would run."""
    from streamer.config.model import load

    print_schedule(load(config), start, end)


def print_schedule(config: Config, start: str | None, end: str | None) -> None:
    """Print the table of runs. Times are ISO 8601; without an offset they are in the agent's time zone.

    Raises ConfigError for a time that cannot be parsed and for a period that is empty or longer than MAX_S.
    """
    from rich.console import Console
    from rich.table import Table

    zone = config.timezone
    first = datetime.now(zone).timestamp() // 60 * 60 if start is None else unix_time("--from", start, zone)
    last = first + DAY_S if end is None else unix_time("--to", end, zone)
    if not 0 < last - first <= MAX_S:
        raise ConfigError("--to: must be later than --from, by 400 days at most")
    print(f"{_day(first, zone)} {_time(first, zone)} to {_day(last, zone)} {_time(last, zone)}, time zone {zone.key}")
    table = Table("stream", "task", "priority", "runs", "when", box=None, pad_edge=False, header_style="bold")
    for name, stream in config.streams.items():
        for task in stream.tasks:
            found = plan(task, stream.source.pace, first, last, zone)
            table.add_row(name, task.name, task.priority, found.runs, found.when)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)


def unix_time(option: str, text: str, zone: ZoneInfo) -> float:
    """Parse an ISO 8601 time into unix seconds. Raises ConfigError that names the option."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: `{text}` is not an ISO 8601 time such as 2026-11-23T22:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()


def plan(task: ScheduledTask, pace: Pace, start: float, end: float, zone: ZoneInfo) -> Plan:
    """Return the runs of a task from `start` until before `end` (unix seconds), printed in time zone `zone`."""
    if pace == "file":
        return Plan("-", f"{task.describe_schedule} of the recording")
    if task.at is not None:
        times = list(islice(_cron_times(task, task.at, start, end), MAX_RUNS))
        return _listed(times, task.describe_schedule, zone)
    spans = [(start, end)] if task.between is None else list(task.between.open_spans(start, end))
    when = f"{task.describe_schedule}: {_spans(spans, zone)}" if task.between else task.describe_schedule
    if task.every is None:
        return Plan("-", when)
    runs = list(_ticks(spans, task.every))
    count = sum(number for _, number in runs)
    if count <= MAX_TIMES:
        times = [first + task.every * tick for first, number in runs for tick in range(number)]
        return _listed(times, task.describe_schedule, zone)
    return Plan(f"{count:,}", when)


def _cron_times(task: ScheduledTask, cron: Cron, start: float, end: float) -> Iterator[float]:
    time = cron.after(start - 1e-3)
    while time < end:
        if task.between is None or task.between.is_open(time):
            yield time
        time = cron.after(time)


def _ticks(spans: list[tuple[float, float]], every: float) -> Iterator[tuple[float, int]]:
    """Yield the first run and the number of runs of each span. A run due between two spans moves to the next one."""
    tick = -math.inf
    for opening, closing in spans:
        tick = max(tick, opening)
        number = max(0, math.ceil((closing - tick) / every - 1e-9))
        if number:
            yield tick, number
        tick += number * every


def _listed(times: list[float], when: str, zone: ZoneInfo) -> Plan:
    count = f"{len(times):,}" if len(times) < MAX_RUNS else f"{MAX_RUNS:,} or more"
    if not times:
        return Plan("0", f"{when}: not in this period")
    if len(times) > MAX_TIMES:
        first, last = (f"{_day(time, zone)} {_time(time, zone)}" for time in (times[0], times[-1]))
        return Plan(count, f"{when}: first {first}" + (f", last {last}" if len(times) < MAX_RUNS else ""))
    days = groupby(times, lambda time: _day(time, zone))
    return Plan(count, "; ".join(f"{day} {', '.join(_time(time, zone) for time in found)}" for day, found in days))


def _spans(spans: list[tuple[float, float]], zone: ZoneInfo) -> str:
    shown = [f"{_day(start, zone)} {_time(start, zone)}-{_time(end, zone)}" for start, end in spans]
    more = f"; and {len(shown) - MAX_TIMES} more" if len(shown) > MAX_TIMES else ""
    return "; ".join(shown[:MAX_TIMES]) + more if shown else "not in this period"


def _day(time: float, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(time, zone):%a %d %b}"


def _time(time: float, zone: ZoneInfo) -> str:
    when = datetime.fromtimestamp(time, zone)
    return f"{when:%H:%M:%S}" if when.second else f"{when:%H:%M}"
