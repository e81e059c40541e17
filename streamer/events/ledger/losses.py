"""Keeps the numbers of lost events when the report that has them is deleted too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import apsw

from streamer.events.schema import StatusEvent, decode


def keep_reported_losses(db: apsw.Connection, last: int, readers: Sequence[str]) -> None:
    """Record again the content of those reports of losses up to position `last` that no sink has delivered.

    `readers`: names of positions that belong to no sink.
    """
    marks = ", ".join("?" * len(readers))
    query = (
        "SELECT body FROM events WHERE pos <= ? AND instr(body, ?)"
        f" AND pos > (SELECT ifnull(max(pos), 0) FROM cursor WHERE sink NOT IN ({marks}))"
    )
    for (body,) in db.execute(query, (last, b'"subject":"sink.lost"', *readers)).fetchall():
        data = cast(StatusEvent, decode(cast(bytes, body))).data
        if data.lost is None:
            continue
        rows = [(data.sink, source, 0, int(first), int(end)) for source, (first, end) in data.lost.sequences.items()]
        db.executemany(
            "INSERT INTO lost VALUES (?, ?, ?, ?, ?) ON CONFLICT (sink, source) DO UPDATE"
            " SET events = events + excluded.events, first = min(first, excluded.first)",
            [(data.sink, "", data.lost.events, 0, 0), *rows],
        )
