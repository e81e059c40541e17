"""Teaches new conditions what is usual, from the events that the ledger holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from streamer.core.errors import WireError
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.rules.engine import Engine
from streamer.rules.observation import Observation
from streamer.rules.reader import read

BATCH = 500
"""Events per read."""
SEARCH_S = 1.0
"""Maximum seconds of a read, after which the caller can act."""


def learn(query: LedgerQuery, engine: Engine, until: int) -> Iterator[None]:
    """Show the events up to position `until` to new conditions with `unusual` that have seen none; yield between reads.

    Call it before the first event and whenever `engine.new` has activities, so that a replay learns at the same place.
    Events that cannot be read are passed over. After a damaged part of the file nothing more is learnt.
    """
    for (stream, task), leaves in engine.learners.items():
        position, filter = 0, Filter(stream=stream, task=task)
        while position < until:
            page = query.after(position, BATCH, filter, SEARCH_S)
            for entry in page.entries:
                if entry.position > until:
                    break
                with suppress(WireError):
                    if isinstance(seen := read(entry.body), Observation):
                        for leaf in leaves:
                            leaf.learn(seen)
            if page.is_damaged or page.position <= position:
                break
            position = page.position
            yield
        for activity in engine.activities.of_stream(stream):
            engine.activities.update(activity)
    engine.new.clear()
