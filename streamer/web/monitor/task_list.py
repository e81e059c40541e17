"""The current tasks of each stream, requested from the parent process after each change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from streamer.bus.rpc import RpcClient, control_socket
from streamer.config.model import Config
from streamer.web.monitor.event_follower import EventFollower

POLL_S = 0.2

TaskJson = dict[str, Any]
"""`ScheduledTask.to_json`."""


class TaskLists:
    """The tasks of each stream: those of the config until the parent has answered."""

    def __init__(self, runtime: Path, config: Config) -> None:
        self.by_stream: dict[str, list[TaskJson]] = {
            name: [task.to_json for task in stream.tasks] for name, stream in config.streams.items()
        }
        self._parent = RpcClient(control_socket(runtime))

    def close(self) -> None:
        self._parent.close()

    async def run(self, events: EventFollower) -> None:
        """Request the tasks at the start and after each task event, until cancelled."""
        seen = None
        while True:
            if events.task_changes != seen:
                seen = events.task_changes
                self._parent.send(op="list")
            for answer in self._parent.receive():
                self.by_stream = {**self.by_stream, **answer.get("streams", {})}
            await asyncio.sleep(POLL_S)
