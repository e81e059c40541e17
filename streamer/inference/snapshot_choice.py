"""Chooses the results that get a snapshot: those that can make a rule true, and by option each answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamer.config.condition import Condition
from streamer.config.model import Config, Stream, find_pipeline
from streamer.config.rule import answering
from streamer.config.yaml_file import Where
from streamer.types import Answer, Result

ABSENCE = frozenset({"absent", "disappears"})
"""Keys of conditions that are true when an object is not seen."""

_Part = tuple[Condition, dict[Where, str]]
"""The condition of a rule, and the task that answers each part of it."""


class SnapshotChoice:
    """The rules of a config, by the tasks that answer them."""

    def __init__(self, config: Config) -> None:
        self._settings = config.snapshots
        self._rules = config.rules if config.snapshots.incidents else {}
        self.is_empty = not (self._rules or config.snapshots.results)
        """No result gets a snapshot."""
        self._streams: Mapping[str, Stream] | None = None
        self._conditions: dict[tuple[str, str], list[_Part]] = {}
        """Conditions by stream and task."""

    def wants(self, result: Result, streams: Mapping[str, Stream]) -> bool:
        """Return whether the frame of a result can become the picture of an incident, or is wanted in any case.

        `streams`: the streams with their present tasks.
        """
        if self.is_empty or result.outcome not in ("ok", "empty"):
            return False
        if self._settings.results and result.outcome == "ok" and result.job.due.parent is None:
            return True
        if streams is not self._streams:
            self._index(streams)
        due = result.job.due
        found = self._conditions.get((due.stream, due.task.name), ())
        return any(_may_hold(condition, (), tasks, due.task.name, result.answer) for condition, tasks in found)

    def _index(self, streams: Mapping[str, Stream]) -> None:
        """Find the tasks that answer the rules."""
        self._streams, self._conditions = streams, {}
        kinds = {task: spec.result for task, spec in find_pipeline().tasks().items()}
        for rule in self._rules.values():
            for stream, tasks in answering(rule, streams, kinds).tasks.items():
                for name in set(tasks.values()):
                    self._conditions.setdefault((stream, name), []).append((rule.when, tasks))


def _may_hold(condition: Condition, where: Where, tasks: Mapping[Where, str], name: str, answer: Answer) -> bool | None:
    """Return whether a condition can be true at this answer of a task; None if the task answers no part of it."""
    if not condition.parts:
        return _leaf_may_hold(condition, answer) if tasks.get(where) == name else None
    found = [_may_hold(part, (*where, *place), tasks, name, answer) for place, part in condition.parts]
    known = [value for value in found if value is not None]
    if not known:
        return None
    if condition.not_ is not None:
        return True
    return all(known) if condition.all is not None else any(known)


def _leaf_may_hold(condition: Condition, answer: Answer) -> bool:
    if condition.motion in ABSENCE or (condition.count is not None and condition.count.holds(0)):
        return True
    if condition.label is None and condition.see is None:
        return not answer.is_empty
    lowest = condition.min_score if condition.clear_score is None else condition.clear_score
    shapes: tuple[Any, ...] = (*answer.boxes, *answer.polygons)
    wanted = None if condition.label is None else condition.label.casefold()
    return any(
        (wanted is None or shape.label.casefold() == wanted)
        and (lowest is None or (shape.score is not None and shape.score >= lowest))
        for shape in shapes
    )
