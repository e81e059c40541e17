"""Changes to the tasks of a running agent: applied to the plain data of its config, and saved with `--save`.

The file beside the ledger holds the changes, not the resulting tasks. The user's config is never written, and later
edits of it still apply. A saved change that no longer fits the config is skipped with a warning.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streamer.bus.commands import Action
from streamer.config.model import Config, from_checked
from streamer.config.validation import nearest
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.printable import counted

log = logging.getLogger(__name__)

FILE = "changes.json"
DONE: Mapping[Action, str] = {"add": "added", "remove": "removed", "pause": "paused", "resume": "resumed"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one task."""

    what: Action
    stream: str
    name: str
    task: dict[str, Any] | None = None
    """Keys of the task to add, as in a config. None for the other changes."""

    def apply(self, config: Config) -> Config:
        """Return the config with this change. Raises ConfigError if the change does not fit."""
        tasks = list(raw_stream(config, self.stream)["tasks"])
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
            after = with_tasks(config, self.stream, tasks)
            if after.made:  # it would come back
                rules = " and ".join(f"`{rule}`" for names in after.made.values() for rule in names)
                raise ConfigError(
                    f"`{self.name}` of {self.stream} is needed by the rule {rules}: pause it, or change the rule"
                )
            return after
        else:
            tasks[place] = {**tasks[place], "paused": self.what == "pause"}
        return with_tasks(config, self.stream, tasks)


def raw_stream(config: Config, name: str) -> Mapping[str, Any]:
    """Return the plain data of a stream. Raises ConfigError if the name is unknown."""
    if name not in config.streams:
        raise ConfigError(f"there is no stream `{name}`{nearest(name, list(config.streams))}")
    stream: Mapping[str, Any] = config.raw["streams"][name]
    return stream


def with_tasks(config: Config, stream: str, tasks: Iterable[Any]) -> Config:
    """Return the config with other tasks in one stream. Raises ConfigError whose message starts at the task."""
    streams = {**config.raw["streams"], stream: {**config.raw["streams"][stream], "tasks": list(tasks)}}
    try:
        return from_checked({**config.raw, "streams": streams}, config.is_part)
    except ConfigError as error:
        raise ConfigError(_about_task(str(error), stream)) from None


def with_task(config: Config, stream: str, name: str, keys: Mapping[str, Any] | None) -> Config:
    """Return the config with a task in place of one of its name. `keys`: as in a config; None: without the task.

    What does not fit changes nothing: it is over.
    """
    before = config.raw["streams"].get(stream, {}).get("tasks", [])
    tasks = [task for task in before if _name(task) != name] + ([] if keys is None else [dict(keys)])
    try:
        return config if tasks == before else with_tasks(config, stream, tasks)
    except ConfigError:
        return config


def check_question(config: Config, stream: str, task: Mapping[str, Any]) -> None:
    """Raise ConfigError, whose message starts at the task, if a task cannot run once on a stream.

    It is no task of the stream, so no rule has to do with it.
    """
    raw_stream(config, stream)
    without = {key: value for key, value in config.raw.items() if key != "rules"}
    with_tasks(replace(config, raw=without), stream, [task])


def _about_task(message: str, stream: str) -> str:
    return re.sub(rf"^streams\.{re.escape(stream)}\.tasks\[\d+\](\.|: )", "", message, flags=re.MULTILINE)


def _name(task: Mapping[str, Any]) -> str:
    return str(task.get("name") or task["task"])


_CHANGES = TypeAdapter(list[Change])


class SavedChanges:
    """The saved changes, which are applied at each start."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE

    def load(self) -> list[Change]:
        """Return the saved changes, none if there is no usable file. An unusable file is set aside with a warning."""
        try:
            return _CHANGES.validate_json(atomic_file.read(self._path))
        except FileNotFoundError:
            return []
        except ValidationError:
            self._set_aside("damaged")
        except OSError as error:
            self._set_aside(f"unreadable ({error.strerror})")
        return []

    def _set_aside(self, problem: str) -> None:
        """Rename the file, so that the next saved change does not replace it."""
        aside = self._path.with_name(f"{FILE}.damaged")
        result = f"moved to {aside}"
        try:
            self._path.replace(aside)
        except OSError as error:
            result = f"cannot be moved to {aside} ({error.strerror})"
        log.warning("%s %s: %s, saved task changes not applied", self._path, problem, result)

    def add(self, change: Change) -> None:
        """Save one more change and remove those that it cancels. Raises OSError if the file cannot be written."""
        saved = self.load()
        same = [old for old in saved if (old.stream, old.name) == (change.stream, change.name)]
        added = any(old.what == "add" for old in same)
        cancelled = same if change.what == "remove" else [old for old in same if old.what in ("pause", "resume")]
        kept = [old for old in saved if old not in cancelled]
        if not (change.what == "remove" and added):  # a task that a saved change added needs no entry
            kept.append(change)
        atomic_file.write(self._path, json.dumps([asdict(change) for change in kept], indent=1) + "\n")

    def apply(self, config: Config) -> Config:
        """Return the config with all saved changes that still fit."""
        applied = 0
        for change in self.load():
            try:
                config = change.apply(config)
                applied += 1
            except ConfigError as error:
                log.warning("saved change skipped, it no longer fits the config: %s", error)
        if applied:
            log.info("%s applied from %s", counted(applied, "saved task change"), self._path)
        return config
