"""The keys of a task that are streamer's own: when it runs, how important it is, and what it sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from streamer.config.calendar import Cron, CronField, TimeWindows, TimeWindowsField, ZoneName
from streamer.config.validation import Problem, nearest
from streamer.core.settings import Name, Seconds, Settings
from streamer.types import Pace, Point, Priority, Task, When, Zone

DEFAULT_EVERY_S = 1.0
REFRESH_S = 600.0
_UNCHANGED = ("task", "priority", "max_age", "every_n_frames", "when", "refresh", "paused")
"""Keys of a config that a `ScheduledTask` takes as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledTask(Task):
    """A task with its schedule. One of `every`, `every_n_frames` and `at` is given."""

    every: float | None = None
    """Seconds between two runs."""
    every_n_frames: int | None = None
    at: Cron | None = None
    between: TimeWindows | None = None
    when: When = "always"
    refresh: float = REFRESH_S
    """Seconds after which a task with `when` runs even if nothing happened."""
    paused: bool = False

    @property
    def describe_schedule(self) -> str:
        """When it is asked, in words."""
        often = f"every {self.every:g} s" if self.every else f"every {self.every_n_frames} frames"
        often = f"at {self.at.text}" if self.at else often
        often += {"always": "", "motion": " while something moves", "change": " once something has changed"}[self.when]
        often += f" between {self.between.text}" if self.between else ""
        return f"paused, else {often}" if self.paused else often

    @property
    def to_json(self) -> dict[str, Any]:
        """What other programs are told of it."""
        return {
            "name": self.name,
            "task": self.task,
            "often": self.describe_schedule,
            "every_s": self.every,
            "priority": self.priority,
            "paused": self.paused,
        }


class TaskKeys(Settings):
    """The keys of every task, whatever it is."""

    name: Name | None = None
    """Name of the task in events and topics, unique in its stream. Default: the task itself."""
    every: Seconds | None = None
    """How often it is asked: `500ms`, `1s`, `5m`. Default: every second."""
    every_n_frames: Annotated[int, Field(ge=1)] | None = None
    """Ask it of every n-th frame instead."""
    at: CronField | None = None
    """Ask it at these times instead: minute, hour, day of the month, month, weekday, as in cron: `0 7 * * mon-fri`."""
    between: TimeWindowsField | None = None
    """Ask it within these hours only: `22:00-06:00`, `mon-fri 07:00-18:00`, or a list of such."""
    timezone: ZoneName | None = None
    """The time zone of `at` and `between`. Default: the agent's."""
    priority: Priority = "normal"
    """Who goes first when there is more to do than can be done: high, normal, low."""
    max_age: Seconds | None = None
    """A frame older than this is not asked about any more: the outcome is `stale`."""
    zone: Name | None = None
    """The zone of the stream that the model sees. Default: the whole picture."""
    when: When = "always"
    """`motion`: only once something moved since its last answer, in its zone if it has one; `change`: only once the
    picture differs from the one of its last answer."""
    refresh: Seconds = REFRESH_S
    """With `when`: ask it after this time even if nothing happened."""
    paused: bool = False
    """Not asked until `streamer task resume`."""

    @model_validator(mode="after")
    def _one_interval(self) -> Self:
        given = [key for key in ("every", "every_n_frames", "at") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give either `{given[0]}` or `{given[1]}`, not both")
        if self.timezone is not None and self.at is None and self.between is None:
            raise ValueError("`timezone` is for `at` and `between`, and there is neither")
        if self.when != "always" and (self.every_n_frames or self.at):
            raise ValueError(f"`when: {self.when}` goes with `every`, not with `{given[0]}`")
        if "refresh" in self.model_fields_set and self.when == "always":
            raise ValueError("`refresh` is for `when: motion` and `when: change`")
        if self.when != "always" and self.refresh < (self.every or DEFAULT_EVERY_S):
            raise ValueError("`refresh` must not be shorter than `every`")
        return self


def make(entry: Any, params: Any, zones: Mapping[str, tuple[Point, ...]], local: ZoneInfo) -> ScheduledTask:
    """The task of checked keys (a TaskKeys with a `task`)."""
    clock = entry.timezone or local
    every = None if entry.every_n_frames or entry.at else entry.every or DEFAULT_EVERY_S
    same = {key: getattr(entry, key) for key in _UNCHANGED}
    return ScheduledTask(
        entry.name or entry.task,
        params=params,
        zone=None if entry.zone is None else Zone(entry.zone, zones[entry.zone]),
        every=every,
        at=entry.at and replace(entry.at, zone=clock),
        between=entry.between and replace(entry.between, zone=clock),
        **same,
    )


def task_problems(entry: Any, zones: Mapping[str, Any], pace: Pace) -> Iterator[Problem]:
    """What is wrong with a task's keys as they stand in their stream."""
    if entry.zone is not None and entry.zone not in zones:
        known = nearest(entry.zone, list(zones)) if zones else ": the stream has no `zones`"
        yield ("zone",), f"unknown zone `{entry.zone}`{known}"
    if entry.zone is not None and getattr(entry, "region", None) is not None:
        yield ("zone",), "give either `zone` or `region`: a region is a part of the whole picture"
    for key in ("at", "between", "max_age") if pace == "file" else ():
        if getattr(entry, key) is not None:
            yield (key,), "is for live streams: of a recording nothing is left out, and it has no time of day"
    if pace == "file" and entry.when != "always":
        yield ("when",), "is for live streams: of a recording nothing is left out"
    if entry.at is not None and not entry.at.ever_within(entry.between):
        within = f" within {entry.between.text}" if entry.between else ""
        yield ("at",), f"`{entry.at.text}` can never run{within}"
