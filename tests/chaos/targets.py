"""Broker and notification targets that are down for minutes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.bench import START_S, Row, Size, at_most, holes, is_so
from tests.support.agents import Event, RunningAgent, until
from tests.support.alert_receivers import TARGETS, AlertReceivers, Received, ids_for
from tests.support.broker import Broker, Listener
from tests.support.killed_rules import CONFIG, incidents

IN_FLIGHT = 20
"""Events that the MQTT sink may repeat after each outage."""
RETRY_S = 75.0
"""Longest time from a target's return to its next notification: the longest wait is 60 s."""
ATTEMPTS = 12
"""Attempts that a frozen HTTP server may find in its queue when it goes on."""


@dataclass(frozen=True, slots=True)
class Outage:
    words: str
    began: float
    """Unix second."""
    ended: float


def targets_down(folder: Path, size: Size) -> Iterator[Row]:
    """broker, ntfy, HTTP receiver and mail server are down for two minutes: refused, frozen, answering "try later"."""
    away = size.of(16, 120, 600)
    with (
        Broker(folder) as broker,
        Listener(broker.port) as listener,
        AlertReceivers(folder / "receivers") as receivers,
    ):
        config, everything = folder / "home.yaml", folder / "all.jsonl"
        rules = {name: {**rule, "notify": [*TARGETS]} for name, rule in CONFIG["rules"].items()}
        sinks = [{"kind": "jsonl", "path": str(everything)}, {"kind": "mqtt", "url": broker.url}]
        notify = receivers.config(timeout="5s", max_age=f"{away / 2:g}s")
        config.write_text(json.dumps({**CONFIG, "rules": rules, "notify": notify, "sinks": sinks}))
        outages: list[Outage] = []
        delivered: list[float] = []
        with RunningAgent(folder / "agent", ["run", str(config)], everything) as running:
            running.wait_for_results(10, START_S)
            until(lambda: _has_got(receivers, running, {}), START_S, "the targets work")
            for words, break_it, mend in _faults(broker, receivers):
                began = time.time()
                break_it()
                time.sleep(away)
                mend()
                outages.append(Outage(words, began, time.time()))
                made = _made(running)
                with suppress(AssertionError):
                    until(lambda m=made: _has_got(receivers, running, m), RETRY_S + 15, "all is delivered")  # type: ignore[misc]
                delivered.append(time.time() - outages[-1].ended)
            running.stop()
        with RunningAgent(folder / "agent", ["run", str(config)], everything) as running:  # the last ones
            made = _made(running)
            until(lambda: _has_got(receivers, running, made), START_S, "the rest")
            running.stop()
        events = running.events()
        with suppress(AssertionError):
            until(lambda: {one["id"] for one in events} <= _published(listener), 10, "the last ones")
        yield from _broker(events, listener, len(outages))
    for target in TARGETS:
        yield from _target(target, made[target], events, receivers.received(target), outages)
    for outage, seconds in zip(outages, delivered, strict=True):
        yield at_most(f"{outage.words}: all delivered after its end in", RETRY_S, seconds, " s")


def _faults(
    broker: Broker, receivers: AlertReceivers
) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    def both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
        return lambda: [first(), second()]

    yield "refused", both(broker.stop, receivers.stop), both(broker.start, receivers.start)
    freeze, thaw = (both(partial(broker.freeze, on), partial(receivers.freeze, on)) for on in (True, False))
    yield "frozen", freeze, thaw
    yield (
        "answers 503",
        both(broker.stop, lambda: receivers.be_busy(True)),
        both(broker.start, lambda: receivers.be_busy(False)),
    )


def _made(running: RunningAgent) -> dict[str, int]:
    """Return how many notifications each target is to get so far."""
    events = incidents(running.events())
    return {target: len(ids_for(target, events)) for target in TARGETS}


def _has_got(receivers: AlertReceivers, running: RunningAgent, made: dict[str, int]) -> bool:
    """Return whether every target has got a notification, one that is not older than the `made` first ones."""
    events = incidents(running.events())
    for target in TARGETS:
        wanted, got = ids_for(target, events), {one.id for one in receivers.received(target)}
        if not got.intersection(wanted[max(0, made.get(target, 0) - 1) :]):
            return False
    return True


def _published(listener: Listener) -> set[str]:
    return {one["id"] for one in _bodies(listener)}


def _bodies(listener: Listener) -> list[dict[str, Any]]:
    return [json.loads(one.body) for one in list(listener.messages) if one.body.startswith(b'{"specversion"')]


def _broker(events: list[Event], listener: Listener, outages: int) -> Iterator[Row]:
    published = _bodies(listener)
    times = Counter(one["id"] for one in published)
    yield at_most(f"broker: events lost, of {len(events)}", 0, len({one["id"] for one in events} - set(times)))
    yield at_most("broker: events that came twice", IN_FLIGHT * outages, sum(count - 1 for count in times.values()))
    yield at_most("broker: holes in the sequences", 0, holes(published))
    firsts = list({one["id"]: one for one in published}.values())
    newest: dict[str, int] = {}
    wrong = 0
    for one in firsts:
        wrong += int(one["sequence"]) < newest.get(one["source"], 0)
        newest[one["source"]] = int(one["sequence"])
    yield at_most("broker: events out of order", 0, wrong)


def _target(
    target: str, made: int, events: list[Event], received: list[Received], outages: list[Outage]
) -> Iterator[Row]:
    """Yield what a target got. `made`: number of notifications of which all must have arrived."""
    known = ids_for(target, incidents(events))
    wanted = known[:made]
    single = [one.id for one in received if not one.is_summary]
    missing = set(wanted) - set(single)
    summaries = {one.id: one for one in received if one.is_summary}
    if target == "phone":  # it names incidents
        summarised = sum(int(one.title.rpartition(" late ")[0].rpartition(" ")[2]) for one in summaries.values())
    else:
        reports = [one for one in events if one["subject"] == "sink.summarised"]
        mine = [one["data"]["reason"] for one in reports if one["data"]["sink"] == f"notify.{target}"]
        summarised = sum(int(reason.split()[0]) for reason in mine)
    lost = max(0, len(missing) - summarised)
    yield at_most(f"{target}: lost, of {len(wanted)} ({summarised} in summaries)", 0, lost)
    firsts = [one for one in dict.fromkeys(single) if one in set(wanted)]
    yield is_so(f"{target}: their order is kept", firsts == [one for one in wanted if one in set(firsts)])
    yield at_most(f"{target}: messages that were never an event", 0, len(set(single) - set(known)))
    ends = [*(one.began for one in outages[1:]), float("inf")]
    for outage, end in zip(outages, ends, strict=True):
        after = [one for one in received if outage.ended <= one.at <= min(end, outage.ended + RETRY_S)]
        count = len({one.id for one in after if one.is_summary})
        yield is_so(f"{target}, {outage.words}: stale ones are one summary", count == 1, count)
        copies = len(after) - len({one.id for one in after}) if target != "phone" else 0
        yield at_most(f"{target}, {outage.words}: copies with the same id", ATTEMPTS, copies)
