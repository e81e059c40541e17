"""The keys of follow-up tasks (`then`): tasks that run on the shapes, or on the text, of another task's answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from streamer.config.validation import Problem, nearest, problems_of
from streamer.config.yaml_file import Where
from streamer.core.settings import Name, Seconds, Settings
from streamer.types import Crop, Pipeline, Priority, Region, Task, TaskSpec

MAX_DEPTH = 3
"""Most follow-ups in a chain, each about the answer of the one before."""
MAX_SHAPES = 64
"""Largest `most`."""
_WHOLE, _ANY_TEXT = Region(0.0, 0.0, 1.0, 1.0), "text"
"""Region and text in the checks of the other keys, in place of those of an answer."""

On = Literal["every", "new_tracks", "changed"]
"""Shapes of an answer that get a follow-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp(Task):
    """A task that runs on parts of another task's answer. Its region or text is set for each of them."""

    labels: frozenset[str] | None = None
    """Labels of the shapes; None: all."""
    on: On = "every"
    refresh: float | None = None
    """Seconds after which a shape gets a follow-up again although it is neither new nor changed."""
    most: int = 8
    then: tuple[FollowUp, ...] = ()


class FollowUpSettings(Settings):
    """The keys that every follow-up task has."""

    name: Name | None = None
    """Name of the follow-up in events and topics, unique in its stream. Default: the task."""
    labels: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] | None = None
    """Only shapes with one of these labels. Default: all."""
    on: On = "every"
    """every: all shapes of each answer. new_tracks: an object once, when it has its track id. changed: a shape when its
    picture, or the text, differs from that of its last follow-up."""
    refresh: Seconds | None = None
    """With `on: new_tracks` and `on: changed`: run again after this time. Default: never."""
    most: Annotated[int, Field(ge=1, le=MAX_SHAPES)] = 8
    """Maximum number of shapes of one answer, those with the best score first."""
    crop: Crop | None = None
    """native: the model sees the pixels around each shape in full resolution, not the whole frame made small. Costs a
    vision pass per shape. Default: the whole frame."""
    priority: Priority | None = None
    """Priority under overload. Default: that of the task before it."""
    max_age: Seconds | None = None
    """Maximum age of the frame. Default: until the task before it is due again."""

    @model_validator(mode="before")
    @classmethod
    def _no_prompt(cls, data: Any) -> Any:
        for key in ("region", "text") if isinstance(data, Mapping) else ():
            if key in data:
                raise ValueError(f"`{key}` is not for follow-ups: the answer before gives it")
        return data

    @model_validator(mode="after")
    def _check_refresh(self) -> Self:
        if self.refresh is not None and self.on == "every":
            raise ValueError("`refresh` is for `on: new_tracks` and `on: changed`")
        return self


def build_follow_ups(
    entries: list[Any], parent: Task, pipeline: Pipeline, model: Any, where: Where, chain: tuple[str, ...] = ()
) -> tuple[tuple[FollowUp, ...], list[Problem]]:
    """Return the follow-ups of checked keys, without those that have problems, and the problems.

    `model` is the config's `model:` block, `chain` holds the kinds of task before `parent`.
    """
    built: list[FollowUp] = []
    problems: list[Problem] = []
    if entries and len(chain) == MAX_DEPTH:
        return (), [((*where, "then"), f"at most {MAX_DEPTH} follow-ups in a chain")]
    chain = (*chain, parent.task)
    for index, entry in enumerate(entries):
        place = (*where, "then", index)
        spec = pipeline.tasks()[entry.task]
        keys = spec.parameters.model_fields.keys() & entry.model_fields_set
        given = {key: getattr(entry, key) for key in keys}
        stand_in: dict[str, Any] = {"region": _WHOLE} if spec.takes_region else {"text": _ANY_TEXT}
        found: list[Problem] = list(_problems(entry, spec, parent, pipeline.tasks()[parent.task], chain))
        try:
            params = spec.parameters.model_validate({**given, **stand_in})
        except ValidationError as error:  # checks of the pipeline that need several keys
            found += problems_of(error, given, {})
        else:
            refused = pipeline.refuse(model, entry.task, params)
            found += [((), refused)] if refused else []
        if found:
            problems += [((*place, *key), what) for key, what in found]
            continue
        task = FollowUp(
            entry.name or entry.task,
            entry.task,
            params,
            entry.priority or parent.priority,
            entry.max_age,
            parent.zone,
            entry.crop,
            labels=None if entry.labels is None else frozenset(entry.labels),
            on=entry.on,
            refresh=entry.refresh,
            most=entry.most,
        )
        then, deeper = build_follow_ups(entry.then, task, pipeline, model, place, chain)
        problems += deeper
        built.append(replace(task, then=then))
    return tuple(built), problems


def _problems(entry: Any, spec: TaskSpec, parent: Task, before: TaskSpec, chain: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the problems of a follow-up's keys that depend on the task before it."""
    gives_text = before.result == "text"
    if spec.takes_region and gives_text:
        yield ("task",), f"{spec.task} needs shapes, and {before.task} gives a text"
    if spec.takes_text and not gives_text:
        yield ("task",), f"{spec.task} needs a text, and {before.task} gives shapes"
    if entry.task in chain:
        yield ("task",), f"{spec.task} is already in this chain of follow-ups: {' -> '.join(chain)}"
    if entry.crop is not None and gives_text:
        yield ("crop",), f"is for tasks about shapes, and {before.task} gives a text"
    if entry.labels is not None and gives_text:
        yield ("labels",), f"are for shapes, and {before.task} gives a text"
    known = parent.params.labels
    for index, label in enumerate(entry.labels or () if known is not None else ()):
        if label not in known:
            yield ("labels", index), f"{before.task} cannot give the label `{label}`{nearest(label, list(known))}"
    if entry.on == "new_tracks" and before.result != "boxes":
        yield ("on",), f"only boxes have tracks, and {before.task} gives {before.result.replace('_', ' ')}"
    if entry.on == "new_tracks" and len(chain) > 1:
        yield ("on",), "only the boxes of a task with its own schedule have tracks"


def names_of(entries: list[Any]) -> Iterator[tuple[Where, str]]:
    """Yield place and name of all follow-ups, with those of their own."""
    for index, entry in enumerate(entries):
        yield ("then", index), entry.name or entry.task
        for where, name in names_of(entry.then):
            yield ("then", index, *where), name


def all_follow_ups(task: Any) -> Iterator[FollowUp]:
    """Yield the follow-ups of a task, with those of their own."""
    for follow_up in task.then:
        yield follow_up
        yield from all_follow_ups(follow_up)
