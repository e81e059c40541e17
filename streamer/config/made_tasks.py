"""Makes the tasks that rules with `see` or `state` need: one for each question and stream that no task answers."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from streamer.config.condition import Condition
from streamer.config.follow_up import all_follow_ups
from streamer.config.rule import Rule, able_tasks, place_problems, question
from streamer.config.validation import Problem, problems_of
from streamer.config.yaml_file import Where
from streamer.core.settings import Name
from streamer.types import Pipeline, ResultKind, TaskSpec

MADE_EVERY_S = 2.0
"""Default interval of a made task: with `hits: 2 of 3` an incident starts after 4 s, at half the cost of the default
interval of other tasks."""
_KINDS: tuple[ResultKind, ...] = ("boxes_or_polygons", "boxes", "polygons")
"""Kinds of result that answer, the preferred one first. Outlines, the last one, have no track ids."""
_MAX_NAME = 40
"""Characters of the text that a made task is named after."""


@dataclass(frozen=True, slots=True)
class MadeTasks:
    """The tasks that the rules of a config make."""

    entries: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Keys of the tasks, as in a config, by stream."""
    rules: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Names of the rules that share a task, by stream and task."""
    problems: list[Problem] = field(default_factory=list)

    def added_to(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain data of a config with these tasks."""
        streams = {
            name: {**stream, "tasks": [*stream.get("tasks", ()), *self.entries.get(name, ())]}
            for name, stream in raw["streams"].items()
        }
        return {**raw, "streams": streams}


class _Asked(NamedTuple):
    """A part of a rule that searches a text, or several."""

    rule: str
    place: Where
    """Place of the part in the config."""
    leaf: Condition


def make_tasks(
    rules: Mapping[str, Rule], streams: Mapping[str, Any], pipeline: Pipeline, model: Any, is_served: bool = False
) -> MadeTasks:
    """Return the tasks that the streams lack. `streams`: `config.model.Stream`; `model`: its settings.

    `is_served`: other hosts get the frames of live streams, which then need no task.
    """
    made, specs = MadeTasks(), pipeline.tasks()
    kinds = {task: spec.result for task, spec in specs.items()}
    for (name, _), asked in _questions(rules, streams, kinds).items():
        stream = streams[name]
        lacking = [one for one in asked if not able_tasks(one.leaf, stream, kinds)]
        made.problems.extend(_interval_problems(name, stream, asked, kinds))
        if not lacking:
            continue
        keys = _keys(lacking[0].leaf, specs, pipeline, model)
        if isinstance(keys, str):
            key = "see" if lacking[0].leaf.see is not None else "state"
            made.problems.append(((*lacking[0].place, key), f"no task can be made for this: {keys}"))
            continue
        taken = {one.name for task in stream.tasks for one in (task, *all_follow_ups(task))}
        task = _free_name(lacking[0], taken | {entry["name"] for entry in made.entries[name]})
        every = next((one.leaf.every for one in asked if one.leaf.every is not None), MADE_EVERY_S)
        made.entries[name].append({"name": task, **keys, "every": every})
        made.rules[name, task] = tuple(dict.fromkeys(one.rule for one in asked))
    if not made.problems:
        bare = [
            name
            for name, stream in streams.items()
            if not (stream.tasks or name in made.entries or (is_served and stream.source.pace == "live"))
        ]
        words = "`tasks` is missing: give one, or a rule with `see`"
        made.problems.extend((("streams", name), words) for name in bare)
    return made


def _questions(
    rules: Mapping[str, Rule], streams: Mapping[str, Any], kinds: Mapping[str, ResultKind]
) -> dict[tuple[str, frozenset[str]], list[_Asked]]:
    """Return the parts of rules that search the same texts in the same stream."""
    found: defaultdict[tuple[str, frozenset[str]], list[_Asked]] = defaultdict(list)
    for rule_name, rule in rules.items():
        for name in rule.when.streams or streams:
            if name not in streams or (rule.when.streams is None and _is_left_out(rule, name, streams[name], kinds)):
                continue
            for place, leaf in rule.when.leaves_with_place():
                if leaf.searched and leaf.task is None:
                    texts = frozenset(question(text) for text in leaf.searched)
                    found[name, texts].append(_Asked(rule_name, ("rules", rule_name, "when", *place), leaf))
    return found


def _is_left_out(rule: Rule, name: str, stream: Any, kinds: Mapping[str, ResultKind]) -> bool:
    """Return whether a stream cannot answer a part of the rule for which no task is made."""
    return any(
        any(place_problems(leaf, place, name, stream))
        or (
            leaf.stream is None and (not leaf.searched or leaf.task is not None) and not able_tasks(leaf, stream, kinds)
        )
        for place, leaf in rule.when.leaves_with_place()
    )


def _keys(leaf: Condition, specs: Mapping[str, TaskSpec], pipeline: Pipeline, model: Any) -> dict[str, Any] | str:
    """Return the keys of a task that searches the leaf's texts, with a second look if it can, or why there is none."""
    problem = "the model has no task that takes a text"
    for spec in _searching(specs, leaf.needs_tracks):
        for more in ({"confirm": True}, {}) if "confirm" in spec.parameters.model_fields else ({},):
            keys = {"text": leaf.searched[0] if len(leaf.searched) == 1 else list(leaf.searched), **more}
            try:
                params = spec.parameters.model_validate(keys)
            except ValidationError as error:
                problem = problems_of(error, keys, {})[0][1]
                continue
            refused = pipeline.refuse(model, spec.task, params)
            if refused is None:
                return {"task": spec.task, **keys}
            problem = refused
    return problem


def _searching(specs: Mapping[str, TaskSpec], tracked: bool) -> Iterator[TaskSpec]:
    """Yield the tasks that search a text and give shapes, the most general first. `tracked`: with track ids."""
    for kind in _KINDS[:2] if tracked else _KINDS:
        for spec in specs.values():
            if spec.result == kind and spec.takes_text and not spec.takes_region:
                yield spec


def _interval_problems(
    name: str, stream: Any, asked: list[_Asked], kinds: Mapping[str, ResultKind]
) -> Iterator[Problem]:
    """Yield the values of `every` that differ from the interval of the task, or from each other."""
    first: _Asked | None = None
    for one in asked:
        if one.leaf.every is None:
            continue
        place, able = (*one.place, "every"), able_tasks(one.leaf, stream, kinds)
        if able and getattr(able[0], "every", None) != one.leaf.every:
            yield place, f"the task `{able[0].name}` of stream `{name}` searches this text already: remove `every`"
        elif not able and first is not None and first.leaf.every != one.leaf.every:
            yield (
                place,
                f"the rule `{first.rule}` searches this text every {first.leaf.every:g} s: give the same `every`",
            )
        first = first or one


def _free_name(asked: _Asked, taken: set[str]) -> Name:
    """Return a name made of the first text, or of the rule's name if no character of the text can be in a name."""
    plain = unicodedata.normalize("NFKD", asked.leaf.searched[0]).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_MAX_NAME].strip("-") or asked.rule[:_MAX_NAME]
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
