"""Makes the activities of rules, with their conditions, for the streams that can answer them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from zoneinfo import ZoneInfo

from streamer.config.condition import Condition as Settings
from streamer.config.model import Config, Stream, find_pipeline
from streamer.config.rule import Rule, answering
from streamer.config.yaml_file import Where
from streamer.rules.activity import Activity
from streamer.rules.condition import (
    AbsentLeaf,
    Compound,
    Condition,
    ObjectLeaf,
    StreamLeaf,
    TextLeaf,
    conjunction,
    disjunction,
    negation,
)
from streamer.rules.controls import Controls
from streamer.rules.descriptions import Descriptions
from streamer.rules.fixed_object import FixedObjectLeaf
from streamer.rules.incident import Reporter, hash_of
from streamer.rules.targets import Targets
from streamer.rules.tracks import TRACKED
from streamer.rules.unusual import UnusualLeaf


def build_activities(
    config: Config,
    rules: Mapping[str, Rule],
    controls: Controls,
    descriptions: Descriptions,
    streams: Mapping[str, Stream] | None = None,
) -> Iterator[tuple[tuple[str, str], Activity]]:
    """Yield rule, stream and a new activity for each stream that can answer a rule. `streams`: all, or some of them."""
    kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
    for name, rule in rules.items():
        hours = rule.between and replace(rule.between, zone=config.timezone)
        zoned = rule.model_copy(update={"between": hours})
        targets = Targets(rule.notify, config.notify, config.timezone)
        for stream, tasks in answering(rule, config.streams if streams is None else streams, kinds).tasks.items():
            condition = build(rule.when, tasks, config.streams[stream], config.timezone, rule)
            rule_hash = hash_of(rule, config.streams[stream])
            reporter = Reporter(config.name, name, stream, rule.say, rule_hash, controls, targets, descriptions)
            yield (name, stream), Activity(zoned, stream, condition, reporter, controls)


def build(
    settings: Settings, tasks: Mapping[Where, str], stream: Stream, timezone: ZoneInfo, rule: Rule, where: Where = ()
) -> Condition:
    """Return the condition of settings for one stream. `tasks`: as of `Answering.tasks`; `timezone`: that of hours.

    `rule`: the one that the condition is of.
    """
    zones = stream.zones
    if settings.parts:
        parts = [build(part, tasks, stream, timezone, rule, (*where, *place)) for place, part in settings.parts]
        joins = {"all": conjunction, "any": disjunction, "not": negation}
        return Compound(parts, joins[str(settings.parts[0][0][0])])
    if settings.stream is not None:
        return StreamLeaf(settings)
    if settings.reads is not None or settings.says is not None:
        return TextLeaf(settings, tasks[where])
    if settings.state is not None:
        return FixedObjectLeaf(settings, tasks[where], zones, rule)
    if settings.motion == "absent":
        return AbsentLeaf(settings, tasks[where], zones)
    if settings.motion == "unusual":
        return UnusualLeaf(settings, tasks[where], zones, timezone)
    if settings.motion is not None:
        return TRACKED[settings.motion](settings.with_line(stream.lines), tasks[where], zones)
    return ObjectLeaf(settings, tasks[where], zones)
