"""The `collect` of a stream: frames of a running agent for a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from streamer.config.validation import Problem, nearest
from streamer.core.settings import Name, Seconds, Settings
from streamer.types import Point

DAY_S = 86400.0
Score = Annotated[float, Field(ge=0, le=1)]


class Collect(Settings):
    """Reasons to store a frame with its answers, and limits. Without a reason nothing is stored."""

    every: Seconds | None = None
    """Store a frame at this interval. Default: none."""
    scores: tuple[Score, Score] | None = None
    """Store a frame with an object or outline whose score is between these two. Default: none."""
    disagreement: bool = False
    """Store a frame about which two tasks disagree: one finds an object that another does not, or gives it another
    name, or does not confirm it."""
    tracks: bool = False
    """Store a frame in which an object that is tracked is missing once, or has another label."""
    feedback: bool = False
    """Store the best frame of an incident that a person calls wrong."""
    masks: list[Name] = Field([])
    """Zones that are black in stored pictures. Texts and objects in them are not stored."""
    per_day: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Pictures in 24 hours at most, and a tenth of them in one hour. Feedback does not count."""
    keep: Seconds = 90 * DAY_S
    """Older pictures are deleted."""
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30
    """The oldest pictures are deleted when all of the stream are larger than this."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.every or self.scores or self.disagreement or self.tracks or self.feedback):
            raise ValueError("has no reason to store a frame: give every, scores, disagreement, tracks or feedback")
        if self.scores and self.scores[0] > self.scores[1]:
            raise ValueError(f"scores: the first one, {self.scores[0]:g}, must be the lower one")
        if self.every and DAY_S / self.every > self.per_day:
            raise ValueError(
                f"every: these are {DAY_S / self.every:.0f} pictures a day, more than `per_day` ({self.per_day})"
            )
        return self


def collect_problems(config: Any) -> Iterator[Problem]:
    """Yield the problems of `collect` with other keys. `config`: an instance of `schema_model()`."""
    for name, stream in config.streams.items():
        if stream.collect is None:
            continue
        where = ("streams", name, "collect")
        if not stream.tasks and not config.rules:
            yield where, "needs a task: frames are stored with the answers about them"
        for index, zone in enumerate(stream.collect.masks):
            if zone not in stream.zones:
                known = nearest(zone, list(stream.zones)) if stream.zones else ": the stream has no `zones`"
                yield (*where, "masks", index), f"unknown zone `{zone}`{known}"
        if stream.collect.feedback and not config.rules:
            yield (*where, "feedback"), "needs `rules`, whose incidents are judged"
        elif stream.collect.feedback and not config.snapshots.incidents:
            yield (
                (*where, "feedback"),
                "needs `snapshots: {incidents: true}`: else the frames of incidents are gone",
            )


def masks_of(collect: Collect, zones: Mapping[str, tuple[Point, ...]]) -> tuple[tuple[Point, ...], ...]:
    """Return the polygons that are black in stored pictures. `zones`: those of the stream."""
    return tuple(zones[name] for name in collect.masks)
