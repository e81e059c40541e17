"""Changes to a running agent's tasks: made to the plain data of its config, and kept for its next start if asked.

What is kept are the changes, in a file beside the ledger, not the tasks they led to: the user's own file is never
written, and what is changed in it still counts. One that no longer fits then is left out, and said so.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from streamer.config.model import Config, from_mapping
from streamer.config.validation import nearest
from streamer.core import atomic_file
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

FILE = "changes.json"
What = Literal["add", "remove", "pause", "resume"]
DONE: Mapping[What, str] = {"add": "added", "remove": "removed", "pause": "paused", "resume": "resumed"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one task."""

    what: What
    stream: str
    name: str
    task: dict[str, Any] | None = None
    """Of `add`: its keys, as they would stand in a config."""

    def apply(self, config: Config) -> Config:
        """The agent with this change. Raises ConfigError when it cannot be made."""
        tasks = list(stream_of(config, self.stream)["tasks"])
        names = [_name(task) for task in tasks]
        if self.what == "add":
            if self.name in names:
                raise ConfigError(f"{self.stream} has a task `{self.name}` already: give this one another --name")
            return with_tasks(config, self.stream, [*tasks, self.task])
        if self.name not in names:
            raise ConfigError(f"{self.stream} has no task `{self.name}`{nearest(self.name, names)}")
        place = names.index(self.name)
        if self.what == "remove":
            if len(tasks) == 1:
                raise ConfigError(f"`{self.name}` is the only task of {self.stream}: pause it")
            del tasks[place]
        else:
            tasks[place] = {**tasks[place], "paused": self.what == "pause"}
        return with_tasks(config, self.stream, tasks)


def stream_of(config: Config, name: str) -> Mapping[str, Any]:
    """The plain data of a stream. Raises ConfigError when there is none of that name."""
    if name not in config.streams:
        raise ConfigError(f"there is no stream `{name}`{nearest(name, list(config.streams))}")
    stream: Mapping[str, Any] = config.raw["streams"][name]
    return stream


def with_tasks(config: Config, stream: str, tasks: Iterable[Any]) -> Config:
    """The agent with other tasks in one stream. Raises ConfigError, in words about the task alone."""
    streams = {**config.raw["streams"], stream: {**config.raw["streams"][stream], "tasks": list(tasks)}}
    try:
        return from_mapping({**config.raw, "streams": streams})
    except ConfigError as error:
        raise ConfigError(_about_task(str(error), stream)) from None


def _about_task(message: str, stream: str) -> str:
    return re.sub(rf"^streams\.{re.escape(stream)}\.tasks\[\d+\](\.|: )", "", message, flags=re.MULTILINE)


def _name(task: Mapping[str, Any]) -> str:
    return str(task.get("name") or task["task"])


class SavedChanges:
    """The changes that are made again at each start."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE

    def load(self) -> list[Change]:
        """Raises ConfigError when the file is not one of ours."""
        try:
            return [Change(**change) for change in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{self._path}: cannot be read ({error}): remove it to start without it") from None

    def add(self, change: Change) -> None:
        """Keep one more; what it makes void is dropped. Raises OSError when it cannot be written."""
        saved = self.load()
        same = [old for old in saved if (old.stream, old.name) == (change.stream, change.name)]
        added = any(old.what == "add" for old in same)
        void = same if change.what == "remove" else [old for old in same if old.what in ("pause", "resume")]
        kept = [old for old in saved if old not in void]
        if not (change.what == "remove" and added):  # what was only ever added here is simply gone
            kept.append(change)
        atomic_file.write(self._path, json.dumps([asdict(change) for change in kept], indent=1) + "\n")

    def apply(self, config: Config) -> Config:
        """The agent with all of them that still fit."""
        changes = self.load()
        for change in changes:
            try:
                config = change.apply(config)
            except ConfigError as error:
                log.warning("a saved change no longer fits and is left out: %s", error)
        if changes:
            log.info("%d saved changes of tasks, from %s", len(changes), self._path)
        return config
