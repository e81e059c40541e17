"""Makes the conditions of a rule for one stream."""

from __future__ import annotations

from collections.abc import Mapping
from zoneinfo import ZoneInfo

from streamer.config.condition import Condition as Settings
from streamer.config.yaml_file import Where
from streamer.rules.condition import (
    AbsentLeaf,
    Compound,
    Condition,
    ObjectLeaf,
    StreamLeaf,
    TextLeaf,
    Zones,
    conjunction,
    disjunction,
    negation,
)
from streamer.rules.fixed_object import FixedObjectLeaf
from streamer.rules.tracks import TRACKED
from streamer.rules.unusual import UnusualLeaf


def build(
    settings: Settings, tasks: Mapping[Where, str], zones: Zones, timezone: ZoneInfo, where: Where = ()
) -> Condition:
    """Return the condition of settings for one stream. `tasks`: as of `Answering.tasks`; `timezone`: that of hours."""
    if settings.parts:
        parts = [build(part, tasks, zones, timezone, (*where, *place)) for place, part in settings.parts]
        joins = {"all": conjunction, "any": disjunction, "not": negation}
        return Compound(parts, joins[str(settings.parts[0][0][0])])
    if settings.stream is not None:
        return StreamLeaf(settings)
    if settings.reads is not None or settings.says is not None:
        return TextLeaf(settings, tasks[where])
    if settings.state is not None:
        return FixedObjectLeaf(settings, tasks[where], zones)
    if settings.motion == "absent":
        return AbsentLeaf(settings, tasks[where], zones)
    if settings.motion == "unusual":
        return UnusualLeaf(settings, tasks[where], zones, timezone)
    if settings.motion is not None:
        return TRACKED[settings.motion](settings, tasks[where], zones)
    return ObjectLeaf(settings, tasks[where], zones)
