"""Conditions on the way of objects: they need the track ids that events carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamer.config.condition import Condition as Settings
from streamer.rules.condition import TimedLeaf, TimedState, Truth, Zones, finding_of
from streamer.rules.geometry import crossing, foot, is_inside
from streamer.rules.observation import Observation, Shape, is_reached
from streamer.types import Point

LOST_ANSWERS = 3
"""An object that is missing in this many answers in a row is gone; fewer are a flicker of the detector."""
LEARN_ANSWERS = 3
"""After the start, and after a new connection, this many answers only show what is there: its objects are not new. An
object gets its track id with its second detection."""


@dataclass(slots=True)
class Track:
    """An object that is followed."""

    at: Point
    """Middle of the lower edge of its box."""
    since: float
    """Answered second at which it was first seen."""
    missed: int = 0
    """Answers without it since it was seen last."""
    step: int = 0
    """For zones in an order: number of zones that it has entered."""


@dataclass(slots=True)
class TrackState(TimedState):
    tracks: dict[int, Track] = field(default_factory=dict)
    epoch: int | None = None
    answers: int = 0
    """Answers of this connection, at most LEARN_ANSWERS."""


class TrackLeaf(TimedLeaf):
    """A condition that follows objects. Subclasses define which change of an object makes it true."""

    is_momentary = True

    def __init__(self, settings: Settings, task: str | None, zones: Zones) -> None:
        super().__init__(settings, task, zones)
        self.state: TrackState = TrackState()
        self.zones = zones

    def _look(self, seen: Observation) -> Truth:
        state = self.state
        if seen.moment.epoch != state.epoch:
            state.epoch, state.answers = seen.moment.epoch, 0
            state.tracks.clear()  # a new connection begins with new track ids
        is_learning = state.answers < LEARN_ANSWERS
        state.answers += is_learning
        hits, here = [], set()
        for shape in self.select(seen):
            if shape.track is None:
                continue
            here.add(shape.track)
            if self._moved(shape) and not is_learning:
                hits.append(shape)
        for number in [number for number in state.tracks if number not in here]:
            track = state.tracks[number]
            track.missed += 1
            if track.missed >= LOST_ANSWERS:
                del state.tracks[number]
                if self._lost(track) and not is_learning:
                    x, y = track.at
                    hits.append(Shape(self.settings.label or self.settings.see or "", None, (x, y, x, y), number))
        self._keep(finding_of(hits))
        state.measured = self._measure(hits)
        return bool(hits)

    def _moved(self, shape: Shape) -> bool:
        """Update the object's track; return whether this answer makes the condition true."""
        assert shape.track is not None
        at = foot(shape.box)
        track = self.state.tracks.get(shape.track)
        if track is None:
            self.state.tracks[shape.track] = track = Track(at, self._now)
            return self._appeared(track)
        before, track.at, track.missed = track.at, at, 0
        return self._went(track, before)

    def _appeared(self, track: Track) -> bool:
        return False

    def _went(self, track: Track, before: Point) -> bool:
        return False

    def _lost(self, track: Track) -> bool:
        return False

    def _measure(self, hits: list[Shape]) -> float | None:
        return len(hits)

    def _threshold(self) -> str | None:
        return ">= 1"


class AppearsLeaf(TrackLeaf):
    def _appeared(self, track: Track) -> bool:
        return True


class DisappearsLeaf(TrackLeaf):
    def _lost(self, track: Track) -> bool:
        return True


class EntersLeaf(TrackLeaf):
    """An object that was outside a zone is inside."""

    def _went(self, track: Track, before: Point) -> bool:
        zone = self.zones[self.settings.enters or ""]
        return is_inside(track.at, zone) and not is_inside(before, zone)


class LeavesLeaf(TrackLeaf):
    """An object that was inside a zone is outside."""

    def _went(self, track: Track, before: Point) -> bool:
        zone = self.zones[self.settings.leaves or ""]
        return is_inside(before, zone) and not is_inside(track.at, zone)


class CrossesLeaf(TrackLeaf):
    """An object crosses a line, or has been in zones in their order."""

    def check(self) -> None:
        crosses: Any = self.settings.crosses
        if any(not 0 <= track.step < max(1, len(crosses.zones)) for track in self.state.tracks.values()):
            raise ValueError("a track beyond the last zone")

    def _appeared(self, track: Track) -> bool:
        return self._entered_next(track)

    def _went(self, track: Track, before: Point) -> bool:
        crosses: Any = self.settings.crosses
        if crosses.ends is None:
            return self._entered_next(track)
        side = crossing(crosses.ends, before, track.at)
        return side is not None and self.settings.direction in (None, side)

    def _entered_next(self, track: Track) -> bool:
        crosses: Any = self.settings.crosses
        order: tuple[str, ...] = crosses.zones
        if not order:
            return False
        if is_inside(track.at, self.zones[order[track.step]]):
            track.step += 1
        if track.step < len(order):
            return False
        track.step = 0
        return True


class DwellLeaf(TrackLeaf):
    """An object has stayed for a time, in the zone if there is one. It lasts as long as the object stays."""

    is_momentary = False

    def _look(self, seen: Observation) -> Truth:
        found = super()._look(seen)
        self._forget_outside(seen)
        return found

    def _look_again(self, seen: Observation) -> None:
        self.state.measured = self._longest()
        self.state.value = is_reached(self.settings.dwell or 0.0, self.state.measured)

    def _moved(self, shape: Shape) -> bool:
        super()._moved(shape)
        assert shape.track is not None
        return is_reached(self.settings.dwell or 0.0, self._now - self.state.tracks[shape.track].since)

    def _forget_outside(self, seen: Observation) -> None:
        """Forget objects that were seen, but not in the zone: their time is over."""
        for shape in seen.objects:
            track = None if shape.track is None else self.state.tracks.get(shape.track)
            if track is not None and shape.track is not None and track.missed and self._passes(shape.score):
                del self.state.tracks[shape.track]

    def _measure(self, hits: list[Shape]) -> float | None:
        return self._longest()

    def _longest(self) -> float:
        return max((self._now - track.since for track in self.state.tracks.values() if not track.missed), default=0.0)

    def _threshold(self) -> str | None:
        return f">= {self.settings.dwell:g} s"


TRACKED: Mapping[str, type[TrackLeaf]] = {
    "appears": AppearsLeaf,
    "disappears": DisappearsLeaf,
    "enters": EntersLeaf,
    "leaves": LeavesLeaf,
    "crosses": CrossesLeaf,
    "dwell": DwellLeaf,
}
