"""The screen of `streamer top`: a table with one row per stream, and below it one row per task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.bus.commands import ListTasks
from streamer.cli.client import REPLY_TIMEOUT_S, call
from streamer.core.paths import find_running
from streamer.core.printable import counted, printable
from streamer.events.ledger.query import LedgerQuery
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.status import stream_state

REFRESH_S = 0.5
TASKS_S = 2.0
"""Interval at which the task list is requested from the agent, because tasks can change."""
ONCE_S = 2.0
"""Time to measure rates before a table that is printed once."""
COLUMNS = ("stream, task", "state", "rate", "age", "delay", "model", "stretch", "not answered", "schedule, or error")
GOOD, BAD, DIM = "green", "bold red", "dim"
_STYLES = {"live": GOOD, "ok": GOOD, "empty": GOOD, "ended": DIM, "unchanged": DIM, "starting": "yellow"}
"""Styles of stream states and of outcomes; any other is BAD."""


async def show(agent: str | None, once: bool) -> None:
    """Draw the table until interrupted, or print it once if asked to or if the output is not a terminal."""
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
    return await asyncio.to_thread(call, agent, REPLY_TIMEOUT_S, ListTasks())


def table(tasks: Mapping[str, Any], capture: CapturePoller, events: EventFollower) -> Table:
    """Build the table; streams that are not live come first. `tasks` is the agent's answer to `list`."""
    streams: Mapping[str, Sequence[Mapping[str, Any]]] = tasks["streams"]
    now, clock = time.monotonic(), datetime.now().strftime("%H:%M:%S")
    counts = f"{counted(len(streams), 'stream')}, {counted(sum(map(len, streams.values())), 'task')}"
    title = f"{tasks['agent']}  {counts}  {clock}"
    rows = Table(*COLUMNS, title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    states = {name: stream_state(capture.states[name], events.states.get(name), now) for name in streams}
    for name in sorted(streams, key=lambda name: states[name] == "live"):
        device = tasks["devices"].get(name, "")
        rows.add_row(*_stream(name, states[name], capture, events, now, device))
        for task in streams[name]:
            rows.add_row(*_task(name, task, events))
    return rows


def _stream(
    name: str, state: str, capture: CapturePoller, events: EventFollower, now: float, device: str
) -> Iterator[Text]:
    status = capture.states[name]
    reason = (events.states[name]["data"]["reason"] or "") if state == "down" else ""
    yield Text(name, "bold")
    yield Text(state, _STYLES.get(state, BAD))
    yield Text("" if status.fps is None else f"{status.fps:.1f}/s")
    yield Text(_seconds(status.frame_age(now)))
    yield from (Text(), Text(device, DIM), Text())
    yield _counts({} if status.counts is None else status.counts.dropped)
    yield Text(printable(reason), BAD)


def _task(stream: str, task: Mapping[str, Any], events: EventFollower) -> Iterator[Text]:
    key = (stream, task["name"])
    newest = events.results.get(key)
    outcome = newest["data"]["outcome"] if newest else "-"
    timing = newest["data"]["timing"] if newest else {"age_ms": None, "inference_ms": None}
    answers = events.answer_times.get(key, ())
    stretch = events.stretch.get(stream, {}).get(task["priority"], 1.0)
    outcomes = {name: count for (*task_key, name), count in events.counts.items() if tuple(task_key) == key}
    yield Text(f"  {task['name']}" + ("" if task["priority"] == "normal" else f" ({task['priority']})"))
    yield Text(outcome, _STYLES.get(outcome, DIM if newest is None else BAD))
    yield Text(rate(answers, time.time()))
    yield Text(_seconds(time.time() - answers[-1] if answers else None))
    for milliseconds in (timing["age_ms"], timing["inference_ms"]):
        yield Text(_seconds(None if milliseconds is None else milliseconds / 1000))
    yield Text(f"{stretch:.1f}x", BAD) if stretch > 1 else Text()
    yield _counts({name: count for name, count in outcomes.items() if name not in _STYLES})
    yield Text(task["often"], DIM)


def rate(answers: Sequence[float], now: float) -> str:
    """Format the rate of answers from their unix seconds; it falls when the next answer is overdue."""
    if len(answers) < 2:
        return ""
    recent = (len(answers) - 1) / max(answers[-1] - answers[0], 1e-3)
    until_now = len(answers) / max(now - answers[0], 1e-3)
    per_second = min(recent, until_now)
    return f"{per_second:.2f}/s" if per_second >= 0.1 else f"{60 * per_second:.2f}/min"


def _counts(counts: Mapping[str, int]) -> Text:
    return Text(", ".join(f"{name} {count}" for name, count in Counter(counts).most_common() if count), "yellow")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
