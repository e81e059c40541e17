"""Runs rules on the events of a ledger, with the same engine as the rules process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from streamer.config.model import Config
from streamer.config.rule import Rule
from streamer.core.errors import WireError
from streamer.events.build import rules_source
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.events.schema import IncidentEvent, StatusEvent
from streamer.rules.engine import Engine
from streamer.rules.learning import learn
from streamer.rules.reader import read

BATCH = 500
"""Events per read."""


def replay(
    query: LedgerQuery, config: Config, rules: Mapping[str, Rule], since: float | None
) -> Iterator[IncidentEvent]:
    """Yield the incident events that these rules make of the events accepted at unix second `since` or later.

    The rules begin with the mode and the snoozes of that time and what is usual then, and without other knowledge: an
    activity that goes on at `since` begins there. Events that this version cannot read are passed over. Raises
    ConfigError if the file of the ledger is damaged.
    """
    engine, position = Engine(config, rules), 0
    if since is not None and (first := query.after(0, 1, Filter(since=since)).entries):
        position = first[0].position - 1
        recall(engine, query, position)
    _learn_all(query, engine, position)
    while True:
        page = query.after(position, BATCH, Filter(since=since)).intact()
        for entry in page.entries:
            try:
                event = read(entry.body)
            except WireError:
                continue
            if event is None:
                continue
            yield from (one for one in engine.process(event, entry.created) if isinstance(one, IncidentEvent))
            if engine.new:
                _learn_all(query, engine, entry.position)
        position = page.position
        if len(page.entries) < BATCH:
            return


def _learn_all(query: LedgerQuery, engine: Engine, until: int) -> None:
    for _ in learn(query, engine, until):
        pass


def recall(engine: Engine, query: LedgerQuery, position: int) -> None:
    """Give a new engine the commands up to a position of the ledger."""
    for entry in query.of_source(rules_source(engine.agent)):
        if entry.position <= position:
            with suppress(WireError):
                event = read(entry.body)
                if isinstance(event, StatusEvent):
                    engine.recall(event)
