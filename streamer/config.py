"""The config: YAML or plain data in, a frozen `Agent` out, or a ConfigError that names line, key and remedy.

The sources' and sinks' settings are unions of their own packages; the `model:` block and the tasks' own keys come from
the installed pipeline, which is found by entry point and imported without its heavy parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib.metadata import entry_points
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from streamer.errors import ConfigError
from streamer.problems import Problem, problems_of
from streamer.redact import redact
from streamer.settings import Name, Seconds, Settings
from streamer.sinks import SinkField
from streamer.sources import SourceField
from streamer.types import Pipeline, SourceSettings, TaskSpec
from streamer.yamlfile import Where, YamlFile, dotted

PIPELINES = "streamer.pipelines"
"""Entry point group in which a pipeline is registered."""

DEFAULT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """One question that is asked of a stream again and again."""

    task: str
    name: str
    every: float | None
    """Seconds between two askings, None when `every_n_frames` is given."""
    every_n_frames: int | None
    params: Any
    """The pipeline's keys: an instance of the task's `TaskSpec.parameters`."""


@dataclass(frozen=True, slots=True)
class Stream:
    source: SourceSettings
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """A checked config."""

    agent: str
    model: Any
    """An instance of the pipeline's `settings`."""
    streams: dict[str, Stream]
    sinks: tuple[Any, ...]
    raw: dict[str, Any] = field(repr=False)
    """Plain data from which `from_mapping` makes this agent again, in another process. Holds secrets in clear."""


class TaskKeys(Settings):
    """The keys of every task, whatever it is."""

    name: Name | None = None
    """Name of the task in events and topics, unique in its stream. Default: the task itself."""
    every: Seconds | None = None
    """How often it is asked: `500ms`, `1s`, `5m`. Default: every second."""
    every_n_frames: Annotated[int, Field(ge=1)] | None = None
    """Ask it of every n-th frame instead."""

    @model_validator(mode="after")
    def _one_interval(self) -> Self:
        if self.every is not None and self.every_n_frames is not None:
            raise ValueError("give either `every` or `every_n_frames`, not both")
        return self


@cache
def find_pipeline(name: str = "florence2") -> Pipeline:
    """The installed pipeline of that name. Raises ConfigError when there is none."""
    found = list(entry_points(group=PIPELINES, name=name))
    if not found:
        raise ConfigError(f"no pipeline `{name}` is installed: run `pip install florence-streamer` in this environment")
    pipeline: Pipeline = found[0].load()
    return pipeline


@cache
def schema_model() -> type[BaseModel]:
    """The pydantic model of a whole config file, made for the installed pipeline."""
    pipeline = find_pipeline()
    task: Any = reduce(or_, map(_task_model, pipeline.tasks().values()))
    tasks: Any = list[Annotated[task, Field(discriminator="task")]]
    stream = create_model(
        "Stream",
        __base__=Settings,
        __doc__="A camera or file, and what is asked of its pictures.",
        source=(SourceField, Field(description="Where the pictures come from: a text or a mapping with `kind`.")),
        tasks=(tasks, Field(min_length=1, description="What is asked of them.")),
    )
    return create_model(
        "Config",
        __base__=Settings,
        __doc__="A streamer config.",
        agent=(Name, Field(description="Name of this agent in events. Default: the file's name.")),
        model=(pipeline.settings, Field(default_factory=pipeline.settings, description="The model.")),
        streams=(dict[Name, stream], Field(min_length=1, description="The streams by name.")),
        sinks=(list[SinkField], Field([{"kind": "stdout"}], validate_default=True, description="Where events go.")),
    )


def _task_model(spec: TaskSpec) -> type[BaseModel]:
    """streamer's keys and the pipeline's together, so that one look at a config finds the errors in both."""
    task: Any = Literal[spec.task]
    keys: dict[str, Any] = {key: (field.annotation, field) for key, field in spec.parameters.model_fields.items()}
    return create_model(spec.task, __base__=TaskKeys, __doc__=spec.summary, task=(task, ...), **keys)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for the completion of editors."""
    schema = schema_model().model_json_schema()
    schema["required"].remove("agent")  # filled in from the file's name
    return schema


def load(path: Path) -> Agent:
    """The agent of a YAML file. Raises ConfigError with one `file:line: key: problem` per line."""
    file = YamlFile(path)
    raw = file.data
    if isinstance(raw, dict):
        raw = {"agent": _name_from(path), **raw}
    return _agent(raw, file)


def from_mapping(raw: Mapping[str, Any]) -> Agent:
    """The agent of plain data, as `Agent.raw` keeps it. Raises ConfigError with one `key: problem` per line."""
    return _agent({"agent": "agent", **raw}, None)


def _name_from(path: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:63] or "agent"


def _agent(raw: Any, file: YamlFile | None) -> Agent:
    problems: list[Problem] = []
    try:
        config: Any = schema_model().model_validate(raw)
    except ValidationError as error:
        problems = problems_of(error, raw, json_schema())
    else:
        problems.extend(_repeated_names(config))
        streams = {
            name: Stream(stream.source, _tasks(name, stream, problems)) for name, stream in config.streams.items()
        }
    if problems:
        raise _error(problems, file)
    return Agent(config.agent, config.model, streams, tuple(config.sinks), raw)


def _error(problems: list[Problem], file: YamlFile | None) -> ConfigError:
    lines = []
    for where, what in sorted(problems, key=lambda problem: file.line(problem[0]) if file else 0):
        place = f"{file.path}:{file.line(where)}: " if file else ""
        lines.append(f"{place}{dotted(where)}{': ' if where else ''}{what}")
    return ConfigError(redact("\n".join(lines)))


def _tasks(name: str, stream: Any, problems: list[Problem]) -> tuple[Task, ...]:
    tasks = []
    for index, entry in enumerate(stream.tasks):
        parameters = find_pipeline().tasks()[entry.task].parameters
        given = {key: getattr(entry, key) for key in parameters.model_fields if key in entry.model_fields_set}
        every = entry.every or (None if entry.every_n_frames else DEFAULT_EVERY_S)
        try:
            params = parameters.model_validate(given)
        except ValidationError as error:  # what the pipeline checks over several keys at once
            found = problems_of(error, given, {})
            problems.extend((("streams", name, "tasks", index, *where), what) for where, what in found)
        else:
            tasks.append(Task(entry.task, entry.name or entry.task, every, entry.every_n_frames, params))
    return tuple(tasks)


def _repeated_names(config: Any) -> Iterator[Problem]:
    for name, stream in config.streams.items():
        tasks = [task.name or task.task for task in stream.tasks]
        yield from _repeated(("streams", name, "tasks"), tasks, "task")
    yield from _repeated(("sinks",), [sink.name for sink in config.sinks], "sink")


def _repeated(where: Where, names: Sequence[str], what: str) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*where, index), f"a second {what} with the name `{name}`: give it a `name` of its own"
