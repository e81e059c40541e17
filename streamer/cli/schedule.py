"""`streamer schedule`: what a config's tasks would do in a stretch of time, without a camera.

It counts as if the agent started at the beginning of that time, every camera gave pictures, and the model could do all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from streamer.config.calendar import Cron
from streamer.config.model import Config
from streamer.config.task import ScheduledTask
from streamer.core.errors import ConfigError
from streamer.types import Pace

DAY_S = 86400.0
WIDTH = 160
"""Characters of a line where it is no terminal that tells."""
MAX_TIMES = 12
"""More runs than this are counted and not listed."""
MAX_RUNS = 100_000
MAX_S = 400 * DAY_S


@dataclass(frozen=True, slots=True)
class Plan:
    """What one task would do."""

    runs: str
    when: str


def print_schedule(config: Config, start: str | None, end: str | None) -> None:
    """Print the table. Times are ISO 8601, in the agent's zone where they name none. Raises ConfigError."""
    zone = config.timezone
    first = datetime.now(zone).timestamp() // 60 * 60 if start is None else moment("--from", start, zone)
    last = first + DAY_S if end is None else moment("--to", end, zone)
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


def moment(option: str, text: str, zone: ZoneInfo) -> float:
    """Unix seconds of an ISO time. Raises ConfigError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}: `{text}` is no ISO time such as 2026-11-23 or 2026-11-23T22:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()


def plan(task: ScheduledTask, pace: Pace, start: float, end: float, zone: ZoneInfo) -> Plan:
    """The runs of a task from `start` to before `end`, unix seconds; shown in `zone`."""
    if pace == "file":
        return Plan("-", f"{task.describe_schedule} of the recording")
    if task.at is not None:
        times = list(islice(_fires(task, task.at, start, end), MAX_RUNS))
        return _listed(times, task.describe_schedule, zone)
    spans = [(start, end)] if task.between is None else list(task.between.open_spans(start, end))
    if task.every is None:
        return Plan("-", f"{task.describe_schedule}: {_spans(spans, zone)}" if task.between else task.describe_schedule)
    runs = list(_ticks(spans, task.every))
    count = sum(number for _, number in runs)
    if count <= MAX_TIMES:
        times = [first + task.every * tick for first, number in runs for tick in range(number)]
        return _listed(times, task.describe_schedule, zone)
    return Plan(
        f"{count:,}", f"{task.describe_schedule}: {_spans(spans, zone)}" if task.between else task.describe_schedule
    )


def _fires(task: ScheduledTask, cron: Cron, start: float, end: float) -> Iterator[float]:
    time = cron.after(start - 1e-3)
    while time < end:
        if task.between is None or task.between.is_open(time):
            yield time
        time = cron.after(time)


def _ticks(spans: list[tuple[float, float]], every: float) -> Iterator[tuple[float, int]]:
    """First run and number of runs of each span: a tick outside of all waits for the next opening."""
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
        return Plan("0", f"{when}: not in this time")
    if len(times) > MAX_TIMES:
        first, last = (f"{_day(time, zone)} {_time(time, zone)}" for time in (times[0], times[-1]))
        return Plan(count, f"{when}: first {first}" + (f", last {last}" if len(times) < MAX_RUNS else ""))
    days = groupby(times, lambda time: _day(time, zone))
    return Plan(count, "; ".join(f"{day} {', '.join(_time(time, zone) for time in found)}" for day, found in days))


def _spans(spans: list[tuple[float, float]], zone: ZoneInfo) -> str:
    shown = [f"{_day(opened, zone)} {_time(opened, zone)}-{_time(closed, zone)}" for opened, closed in spans]
    more = f"; and {len(shown) - MAX_TIMES} more" if len(shown) > MAX_TIMES else ""
    return "; ".join(shown[:MAX_TIMES]) + more if shown else "not in this time"


def _day(time: float, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(time, zone):%a %d %b}"


def _time(time: float, zone: ZoneInfo) -> str:
    when = datetime.fromtimestamp(time, zone)
    return f"{when:%H:%M:%S}" if when.second else f"{when:%H:%M}"
