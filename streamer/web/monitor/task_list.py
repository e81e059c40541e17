"""The current tasks of each stream, as the inference process publishes them on the result feed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from streamer.bus.result_feed import ProcessUp, ResultSubscriber, TaskList
from streamer.config.changes import with_tasks
from streamer.config.model import Config
from streamer.core.errors import ConfigError
from streamer.core.logs import RareLog
from streamer.web.monitor.devices import Devices

log = logging.getLogger(__name__)

POLL_S = 0.2

TaskJson = dict[str, Any]
"""`ScheduledTask.to_json`."""


class TaskLists:
    """The tasks of each stream: those of the config until the feed has sent others."""

    def __init__(
        self,
        runtime: Path,
        config: Config,
        inference: Sequence[str | None] = (None,),
        devices: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`inference`: targets of the inference processes. `devices`: as of `Devices`."""
        self._config = config
        self.devices = Devices(devices)
        self.by_stream: dict[str, list[TaskJson]] = {
            name: [task.to_json for task in stream.tasks] for name, stream in config.streams.items()
        }
        self._feed = ResultSubscriber(runtime, None, inference)
        self._invalid_lists = RareLog(log, "invalid task list %d dropped, stream %r: %s")

    def close(self) -> None:
        self._feed.close()

    async def run(self) -> None:
        """Receive task lists until cancelled."""
        while True:
            for item in self._feed.receive():
                if isinstance(item, TaskList):
                    self._replace(item)
                elif isinstance(item, ProcessUp):
                    self.devices.on_up(item.process)
            await asyncio.sleep(POLL_S)

    def _replace(self, item: TaskList) -> None:
        try:
            stream = with_tasks(self._config, item.stream, item.tasks).streams[item.stream]
        except (ConfigError, KeyError, TypeError) as error:
            self._invalid_lists.add(item.stream, error)
        else:
            self.by_stream[item.stream] = [task.to_json for task in stream.tasks]
            self.devices.on_stream(item.stream, item.process)
