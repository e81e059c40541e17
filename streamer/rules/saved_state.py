"""The engine's state as JSON, in one part for each activity, so that parts that did not change need not be stored."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from streamer.events.part import UnixSecond
from streamer.rules.activity import Activity, ActivityState
from streamer.rules.condition import LeafState
from streamer.rules.controls import ControlState
from streamer.rules.descriptions import Descriptions
from streamer.rules.incident import Key


class SavedState(NamedTuple):
    """Result of `Engine.save`."""

    head: bytes
    """A `Head` as JSON."""
    activities: Mapping[Key, bytes | None]
    """Activities as JSON, by rule and stream; None for one that is as at its beginning, or is gone."""


@dataclass(slots=True)
class Head:
    """The state that is of no single activity."""

    clock: UnixSecond
    controls: ControlState
    descriptions: Descriptions = field(default_factory=Descriptions)


class SavedActivity(NamedTuple):
    rule_hash: str
    state: ActivityState
    leaves: list[Any]
    """States of the leaves, as plain data."""


def dump_head(head: Head) -> bytes:
    return _HEAD.dump_json(head)


def load_head(data: bytes) -> Head:
    """Raises ValueError if the data is not from this version."""
    return _HEAD.validate_json(data)


def dump_activity(activity: Activity) -> bytes | None:
    """Return None if the state does not differ in what matters from that of a new activity."""
    if not _is_worth_saving(activity):
        return None
    leaves = b",".join(_adapter(leaf.state).dump_json(leaf.state) for leaf in activity.leaves)
    head = to_json(activity.reporter.rule_hash), _ACTIVITY.dump_json(activity.state), leaves
    return b'{"hash":%b,"activity":%b,"leaves":[%b]}' % head


def load_activity(data: bytes) -> SavedActivity:
    """Raises ValueError if the data is not from this version."""
    try:
        saved = from_json(data, allow_inf_nan=False)
        return SavedActivity(
            str(saved["hash"]), _ACTIVITY.validate_python(saved["activity"]), list[Any](saved["leaves"])
        )
    except (KeyError, TypeError) as error:
        raise ValueError("no activity") from error


def restore(activity: Activity, saved: SavedActivity, now: float) -> None:
    """Let an activity continue at unix second `now`. Raises ValueError if the data is not from this version."""
    states = [
        _adapter(leaf.state).validate_python(data) for leaf, data in zip(activity.leaves, saved.leaves, strict=True)
    ]
    activity.state = saved.state
    for leaf, state in zip(activity.leaves, states, strict=True):
        leaf.state = state
        leaf.check()
    if saved.state.may_start_at is not None and not saved.state.pending:
        raise ValueError("a start without evidence")
    if saved.state.incident is not None:  # can it be reported?
        activity.reporter.event(deepcopy(saved.state.incident), "end", now)


def _is_worth_saving(activity: Activity) -> bool:
    if activity.sleeps:
        return activity.state.last_start is not None
    return activity.state != ActivityState() or any(leaf.state != type(leaf.state)() for leaf in activity.leaves)


_HEAD: TypeAdapter[Head] = TypeAdapter(Head)
_ACTIVITY: TypeAdapter[ActivityState] = TypeAdapter(ActivityState)
_ADAPTERS: dict[type[LeafState], TypeAdapter[Any]] = {}


def _adapter(state: LeafState) -> TypeAdapter[Any]:
    """Return the reader and writer of a leaf's state."""
    kind = type(state)
    found = _ADAPTERS.get(kind)
    if found is None:
        found = _ADAPTERS[kind] = TypeAdapter(kind)
    return found
