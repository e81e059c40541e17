"""The keys of a task that belong to streamer: schedule, priority and zone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from streamer.config.calendar import Cron, CronField, TimeWindows, TimeWindowsField, ZoneName
from streamer.config.follow_up import FollowUp
from streamer.config.validation import Problem, nearest
from streamer.core.settings import Name, Seconds, Settings
from streamer.types import Crop, Pace, Point, Priority, Task, TaskSpec, When, Zone

DEFAULT_EVERY_S = 1.0
REFRESH_S = 600.0
_COPIED = ("task", "priority", "max_age", "every_n_frames", "when", "refresh", "paused", "crop", "changes")
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
    changes: bool = False
    """Send an answer only when its content differs from that of the last one sent."""
    then: tuple[FollowUp, ...] = ()

    @property
    def describe_schedule(self) -> str:
        """Schedule of the task as text."""
        often = f"every {self.every:g} s" if self.every else f"every {self.every_n_frames} frames"
        often = f"at {self.at.text}" if self.at else often
        often += {"always": "", "motion": " while something moves", "change": " once something has changed"}[self.when]
        often += f" between {self.between.text}" if self.between else ""
        return f"paused, else {often}" if self.paused else often

    @property
    def to_json(self) -> dict[str, Any]:
        """The task as JSON data, for other programs."""
        return {
            "name": self.name,
            "task": self.task,
            "often": self.describe_schedule,
            "every_s": self.every,
            "priority": self.priority,
            "paused": self.paused,
        }


class TaskSettings(Settings):
    """The keys that every task has."""

    name: Name | None = None
    """Name of the task in events and topics, unique in its stream. Default: the task."""
    every: Seconds | None = None
    """Interval of the task: `500ms`, `1s`, `5m`. Default: 1s."""
    every_n_frames: Annotated[int, Field(ge=1)] | None = None
    """Run on every n-th frame instead."""
    at: CronField | None = None
    """Run at these times instead: minute, hour, day of the month, month, weekday, as in cron: `0 7 * * mon-fri`."""
    between: TimeWindowsField | None = None
    """Run within these hours only: `22:00-06:00`, `mon-fri 07:00-18:00`, or a list of such."""
    timezone: ZoneName | None = None
    """Time zone of `at` and `between`. Default: the agent's."""
    priority: Priority = "normal"
    """Priority under overload: high, normal, low."""
    max_age: Seconds | None = None
    """Maximum age of the frame; for an older one the outcome is `stale`. Default: no limit."""
    zone: Name | None = None
    """Zone of the stream that the model sees. Default: the whole frame."""
    crop: Crop | None = None
    """native: of a task with a region, the model sees the pixels around the region in full resolution, not the whole
    frame made small. Costs a vision pass. A zone is always seen in full resolution. Default: the whole frame."""
    when: When = "always"
    """`motion`: run only after something moved since the last answer, in the zone if there is one; `change`: run only
    when the frame differs from that of the last answer."""
    refresh: Seconds = REFRESH_S
    """With `when`: run after this time even if nothing happened."""
    paused: bool = False
    """Do not run until `streamer task resume`."""
    changes: bool = False
    """For captions: send an answer only when it names other things, numbers or relations than the last one sent."""

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


def build_task(entry: Any, params: Any, zones: Mapping[str, tuple[Point, ...]], local: ZoneInfo) -> ScheduledTask:
    """Return the task of checked keys (a TaskSettings with a `task`)."""
    clock = entry.timezone or local
    every = None if entry.every_n_frames or entry.at else entry.every or DEFAULT_EVERY_S
    same = {key: getattr(entry, key) for key in _COPIED}
    return ScheduledTask(
        entry.name or entry.task,
        params=params,
        zone=None if entry.zone is None else Zone(entry.zone, zones[entry.zone]),
        every=every,
        at=entry.at and replace(entry.at, zone=clock),
        between=entry.between and replace(entry.between, zone=clock),
        **same,
    )


def task_problems(entry: Any, spec: TaskSpec, zones: Mapping[str, Any], pace: Pace) -> Iterator[Problem]:
    """Yield the problems of a task's keys that depend on its stream."""
    if entry.zone is not None and entry.zone not in zones:
        known = nearest(entry.zone, list(zones)) if zones else ": the stream has no `zones`"
        yield ("zone",), f"unknown zone `{entry.zone}`{known}"
    if entry.zone is not None and getattr(entry, "region", None) is not None:
        yield ("zone",), "give either `zone` or `region`: a region is a part of the whole frame"
    if entry.crop is not None and entry.zone is None and getattr(entry, "region", None) is None:
        yield ("crop",), "is for tasks with a `region` or a `zone`: there is nothing to crop the frame to"
    if entry.changes and spec.content is None:
        yield ("changes",), f"is for captions: the answers of {spec.task} do not describe the picture in words"
    for key in ("at", "between", "max_age") if pace == "file" else ():
        if getattr(entry, key) is not None:
            yield (key,), "is for live streams: a recording skips no frame and has no time of day"
    if pace == "file" and entry.when != "always":
        yield ("when",), "is for live streams: a recording skips no frame"
    if entry.at is not None and not entry.at.ever_within(entry.between):
        within = f" within {entry.between.text}" if entry.between else ""
        yield ("at",), f"`{entry.at.text}` can never run{within}"
