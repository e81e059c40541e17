"""Incident events for tests of notifications."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from streamer.events.build import rfc3339
from streamer.events.incident_data import IncidentData, IncidentFrame
from streamer.events.schema import IncidentEvent


def incident_event(
    number: int = 1,
    state: str = "start",
    age: float = 0.0,
    order: int = 0,
    notify: tuple[str, ...] = ("phone",),
    **fields: Any,
) -> IncidentEvent:
    """Return an event of incident `number`, whose time lies `age` seconds back."""
    when = rfc3339(datetime.fromtimestamp(time.time() - age, UTC))
    values: dict[str, Any] = {
        "stream": "gate", "rule": "ladder", "rule_hash": "0", "incident": f"incident-{number}", "state": state,
        "number": order, "severity": "high", "text": f"{number} x person at gate", "reason": None, "started": when,
        "seconds": 0.0, "count": 1, "answers": 1,
        "best": IncidentFrame(event="e", epoch=1, seq=1, label="person", score=0.9, box=None),
        "evidence": ("e",), "why": (), "notify": notify, **fields,
    }  # fmt: skip
    return IncidentEvent(
        source="/agents/home/streams/gate",
        id=f"event-{number}-{state}-{values['number']}",
        subject="incident.ladder",
        time=when,
        data=IncidentData(**values),
    )
