"""Devices of an agent that has several: which streams each serves, and whether its inference process runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streamer.web.monitor.event_follower import Event

_LOST = ("restarted", "degraded")
"""States of a process that has ended and is started again."""


class Devices:
    """The devices by their first inference process, as the result feed shows them.

    A swap of the model starts a second process on each. It counts as the first one.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names`: of the devices, by first process. Empty where there is one device."""
        self._names = names
        self._up_at: dict[str, float] = {}
        """Unix second at which a process was last seen to start."""
        self._serving: dict[str, str] = {}
        """Processes by stream."""

    def on_up(self, process: str) -> None:
        """The process has started, or this one has connected to it."""
        self._up_at[process] = time.time()

    def on_stream(self, stream: str, process: str | None) -> None:
        """The process serves the stream."""
        if process is not None:
            self._serving[stream] = process

    def of(self, stream: str) -> str | None:
        """Return the name of the device that serves a stream, if there are several."""
        return self._names.get(self._serving.get(stream, ""))

    def states(self, workers: Mapping[str | None, Event]) -> list[dict[str, Any]]:
        """Return name and state of each device, `up`, `starting` or `restarting`, with the reason.

        `workers`: newest event about its processes.
        """
        found = []
        for process, name in self._names.items():
            up_at, event = self._up_at.get(process), workers.get(process)
            state, reason = "starting" if up_at is None else "up", None
            if event is not None and event["data"]["state"] in _LOST and _is_newer(event, up_at):
                state, reason = "restarting", event["data"]["reason"]
            found.append({"name": name, "state": state, "reason": reason})
        return found


def _is_newer(event: Event, at: float | None) -> bool:
    return at is None or at < datetime.fromisoformat(event["time"]).timestamp()
