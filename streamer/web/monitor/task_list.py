"""What is asked of each stream now, as the parent knows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from streamer.bus.rpc import RpcClient, control_socket
from streamer.config.model import Config
from streamer.web.monitor.event_follower import EventFollower

LOOK_S = 0.2

Told = dict[str, Any]
"""`streamer.tasks.Task.told`."""


class TaskLists:
    """The tasks of the config, until the parent has told which ones there are; asked again after each change."""

    def __init__(self, runtime: Path, config: Config) -> None:
        self.of: dict[str, list[Told]] = {
            name: [task.to_json for task in stream.tasks] for name, stream in config.streams.items()
        }
        """By stream."""
        self._parent = RpcClient(control_socket(runtime))

    def close(self) -> None:
        self._parent.close()

    async def follow(self, tail: EventFollower) -> None:
        """Until cancelled."""
        seen = None
        while True:
            if tail.changes != seen:
                seen = tail.changes
                self._parent.send(op="list")
            for answer in self._parent.receive():
                self.of = {**self.of, **answer.get("streams", {})}
            await asyncio.sleep(LOOK_S)
