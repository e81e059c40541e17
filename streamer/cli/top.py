"""`streamer top`: how a running agent is, as a table in the terminal. Reads as the page does, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamer.bus.rpc import Message
from streamer.cli.client import LOOK_S, call
from streamer.core.paths import find_running
from streamer.events.ledger.query import LedgerQuery
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.status import state_of

REFRESH_S = 0.5
ORDERS_S = 2.0
"""How often the agent is asked for its tasks, which may change."""
ONCE_S = 2.0
"""How long rates are counted before a table that is printed once."""
COLUMNS = ("stream, task", "state", "rate", "age", "delay", "model", "stretch", "not answered", "asked, or why not")
GOOD, BAD, DIM = "green", "bold red", "dim"
_STATES = {"live": GOOD, "ok": GOOD, "empty": GOOD, "ended": DIM, "unchanged": DIM, "starting": "yellow"}


def watch_agent(agent: str | None, once: bool) -> None:
    """Draw the table until interrupted, or print it once, as to a file. Raises ConfigError when no agent answers."""
    asyncio.run(_watch(agent, once))


async def _watch(agent: str | None, once: bool) -> None:
    _, runtime = find_running(agent)
    overview = await asyncio.to_thread(call, agent, LOOK_S, op="list")
    console = Console()
    with (
        contextlib.closing(LedgerQuery(Path(overview["ledger"]))) as book,
        CapturePoller(runtime, overview["streams"]) as cameras,
    ):
        tail = EventFollower(book)
        following = asyncio.create_task(tail.run())
        try:
            if once or not console.is_terminal:
                await asyncio.sleep(ONCE_S)
                console.print(table(overview, cameras, tail), soft_wrap=not console.is_terminal)
            else:
                await _draw(agent, overview, cameras, tail, console)
        finally:
            tail.close()
            await following


async def _draw(
    agent: str | None, overview: Message, cameras: CapturePoller, tail: EventFollower, console: Console
) -> None:
    """Until cancelled, or until the agent does not answer any more."""
    asked = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(table(overview, cameras, tail), refresh=True)
            await asyncio.sleep(REFRESH_S)
            if time.monotonic() - asked > ORDERS_S:
                asked = time.monotonic()
                overview = await asyncio.to_thread(call, agent, LOOK_S, op="list")


def table(overview: Message, cameras: CapturePoller, tail: EventFollower) -> Table:
    """A row for each stream, those in trouble first, and below it one for each of its tasks."""
    streams: Mapping[str, Sequence[Message]] = overview["streams"]
    now, clock = time.monotonic(), datetime.now().strftime("%H:%M:%S")
    title = f"{overview['agent']}  {len(streams)} streams, {sum(map(len, streams.values()))} tasks  {clock}"
    drawn = Table(*COLUMNS, title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    states = {name: state_of(cameras.states[name], tail.states.get(name), now) for name in streams}
    for name in sorted(streams, key=lambda name: states[name] == "live"):
        drawn.add_row(*_stream(name, states[name], cameras, tail, now))
        for task in streams[name]:
            drawn.add_row(*_task(name, task, tail))
    return drawn


def _stream(name: str, state: str, cameras: CapturePoller, tail: EventFollower, now: float) -> Iterator[Text]:
    camera = cameras.states[name]
    reason = (tail.states[name]["data"]["reason"] or "") if state == "down" else ""
    yield Text(name, "bold")
    yield Text(state, _STATES.get(state, BAD))
    yield Text("" if camera.fps is None else f"{camera.fps:.1f}/s")
    yield Text(_seconds(camera.frame_age(now)))
    yield from (Text(), Text(), Text())
    yield _causes({} if camera.counts is None else camera.counts.dropped)
    yield Text(reason, BAD)


def _task(stream: str, task: Message, tail: EventFollower) -> Iterator[Text]:
    key = (stream, task["name"])
    newest = tail.results.get(key)
    outcome = newest["data"]["outcome"] if newest else "-"
    timing = newest["data"]["timing"] if newest else {"age_ms": None, "inference_ms": None}
    answers = tail.recent.get(key, ())
    stretch = tail.stretch.get(stream, {}).get(task["priority"], 1.0)
    others = {what: count for (*of, what), count in tail.counts.items() if tuple(of) == key}
    yield Text(f"  {task['name']}" + ("" if task["priority"] == "normal" else f" ({task['priority']})"))
    yield Text(outcome, _STATES.get(outcome, DIM if newest is None else BAD))
    yield Text(rate(answers, time.time()))
    yield Text(_seconds(time.time() - answers[-1] if answers else None))
    yield Text(_seconds(_of_ms(timing["age_ms"])))
    yield Text(_seconds(_of_ms(timing["inference_ms"])))
    yield Text(f"{stretch:.1f}x", BAD) if stretch > 1 else Text()
    yield _causes({what: count for what, count in others.items() if what not in _STATES})
    yield Text(task["often"], DIM)


def rate(answers: Sequence[float], now: float) -> str:
    """How often there are answers, by the unix seconds of the newest ones; less when the next one is overdue."""
    if len(answers) < 2:
        return ""
    of_late = (len(answers) - 1) / max(answers[-1] - answers[0], 1e-3)
    by_now = len(answers) / max(now - answers[0], 1e-3)
    each_second = min(of_late, by_now)
    return f"{each_second:.2f}/s" if each_second >= 0.1 else f"{60 * each_second:.2f}/min"


def _causes(counts: Mapping[str, int]) -> Text:
    return Text(", ".join(f"{cause} {count}" for cause, count in Counter(counts).most_common() if count), "yellow")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _of_ms(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
