"""The config: reads YAML or plain data into a frozen `Config`, or raises a ConfigError that names line, key and remedy.

The settings of sources, sinks and outputs are unions of their own packages. The `model:` block and further keys of the
tasks come from the installed pipeline, which is found by its entry point and imported without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from importlib.metadata import entry_points
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model
from typing_extensions import TypeAliasType

from streamer.capture.interfaces import SourceSettings
from streamer.capture.motion_gate import MotionSettings
from streamer.capture.sources import SourceField
from streamer.config.calendar import ZoneName, local_zone
from streamer.config.cluster import Cluster, Label, agent_name
from streamer.config.collect import Collect
from streamer.config.cross_checks import cross_problems
from streamer.config.follow_up import FollowUpSettings, build_follow_ups
from streamer.config.made_tasks import make_tasks
from streamer.config.modes import Mode, ModesField, mode_problems
from streamer.config.notify import NotifyField
from streamer.config.rule import Rule, rule_problems
from streamer.config.serve import Serve
from streamer.config.task import ScheduledTask, TaskSettings, build_task, task_problems
from streamer.config.validation import Problem, problems_of
from streamer.config.web import Web
from streamer.config.yaml_file import EXTENSION, Where, YamlFile, dotted
from streamer.config.zone import LineField, PolygonField
from streamer.core.errors import ConfigError
from streamer.core.redact import redact
from streamer.core.settings import Name, Settings
from streamer.events.ledger.retention import Retention
from streamer.events.sinks import SinkField
from streamer.events.snapshots.settings import Snapshots
from streamer.types import Pipeline, Point, TaskSpec
from streamer.video.outputs import OutputField

PIPELINES = "streamer.pipelines"
"""Entry point group in which a pipeline is registered."""

_THEN: Any = Field([], description="Tasks that run on the shapes, or the text, of this task's answers.")

WebField = Annotated[Web, BeforeValidator(lambda value: {} if value is None else value)]
"""`web:` without a value is a page with all defaults."""


class _StreamSettings(Settings):
    """The keys of a stream that do not depend on the pipeline."""

    source: SourceField
    """Source of the frames: a text or a mapping with `kind`."""
    zones: dict[Name, PolygonField] = Field({})
    """Parts of the frame by name: corners [x, y], 0 to 1."""
    lines: dict[Name, LineField] = Field({})
    """Lines in the frame by name: their two ends [x, y], 0 to 1. For `crosses` of a rule."""
    motion: MotionSettings = MotionSettings()
    """Motion detection for tasks with `when`."""
    collect: Collect | None = None
    """Frames that are stored for a dataset; without this key there are none."""
    host_labels: dict[Name, Label] = Field({})
    """Labels that a host of the `cluster` must have to run the stream."""


class _ConfigSettings(Settings):
    """The keys of a config that do not depend on the pipeline."""

    agent: Name
    """Name of this agent in events. Default: the file's name."""
    timezone: ZoneName | None = None
    """Time zone of `at` and `between`. Default: this computer's."""
    sinks: list[SinkField] = Field([{"kind": "stdout"}], validate_default=True)
    """Receivers of the events."""
    ledger: Retention = Retention()
    """Retention of accepted events."""
    outputs: list[OutputField] = Field([])
    """Receivers of annotated video."""
    rules: dict[Name, Rule] = Field({})
    """Conditions that make incidents, by name."""
    modes: ModesField | None = None
    """Modes that arm rules: a list of names, or names with `at`, a cron line that switches to the mode. The first one
    is the mode at the first start."""
    notify: dict[Name, NotifyField] = Field({})
    """Receivers of notifications of incidents, by name."""
    snapshots: Snapshots = Snapshots()
    """Frames of incidents and results as JPEG files."""
    cluster: Cluster | None = None
    """Hosts that share the streams; without this key the agent runs all of them."""
    serve: Serve | None = None
    """Address at which other hosts ask for frames; without this key there is none."""


@dataclass(frozen=True, slots=True)
class Stream:
    source: SourceSettings
    tasks: tuple[ScheduledTask, ...]
    zones: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    motion: MotionSettings = field(default_factory=MotionSettings)
    lines: Mapping[str, tuple[Point, Point]] = field(default_factory=dict)
    host_labels: Mapping[str, str] = field(default_factory=dict)
    collect: Collect | None = None

    @property
    def active(self) -> tuple[ScheduledTask, ...]:
        """The tasks that are not paused."""
        return tuple(task for task in self.tasks if not task.paused)


@dataclass(frozen=True, slots=True)
class Config:
    """A checked config."""

    name: str
    model: Any
    """An instance of the pipeline's `settings`."""
    streams: dict[str, Stream]
    sinks: tuple[Any, ...]
    web: Web | None
    """None if there is no page."""
    raw: dict[str, Any] = field(repr=False)
    """Plain data from which `from_checked` makes this config again. Contains secrets in clear text."""
    outputs: tuple[Any, ...] = ()
    """Settings of the annotated video."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    modes: Mapping[str, Mode] = field(default_factory=dict)
    notify: Mapping[str, NotifyField] = field(default_factory=dict)
    made: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict, compare=False)
    """Names of the rules for which a task was made when this config was read, by stream and task. `raw` contains it."""
    snapshots: Snapshots = field(default_factory=Snapshots)
    serve: Serve | None = None
    """None if no other host gets frames."""
    cluster: Cluster | None = None
    """None if the agent runs all streams."""
    host: str | None = None
    """Host of the cluster on which the agent runs. None: it is no part of it."""
    ledger: Retention = field(default_factory=Retention)
    timezone: ZoneInfo = field(default_factory=local_zone)
    is_part: bool = False
    """This is the part of a config that a child process has: its sources may be summaries."""


@cache
def find_pipeline() -> Pipeline:
    """Return the installed pipeline. Raises ConfigError if there is none."""
    for entry_point in entry_points(group=PIPELINES):
        pipeline: Pipeline = entry_point.load()
        return pipeline
    raise ConfigError("no pipeline is installed: run `pip install florence-streamer` in this environment")


@cache
def schema_model() -> type[BaseModel]:
    """Return the pydantic model of a whole config file, made for the installed pipeline."""
    pipeline = find_pipeline()
    then = _then_field([spec for spec in pipeline.tasks().values() if spec.takes_region or spec.takes_text])
    task: Any = reduce(or_, (_task_model(spec, then) for spec in pipeline.tasks().values()))
    entries: Any = list[Annotated[task, Field(discriminator="task")]]
    stream: Any = create_model(
        "Stream",
        __base__=_StreamSettings,
        __doc__="A camera or file and its tasks.",
        tasks=(
            entries,
            Field([], description="Tasks that run on the frames. Without `serve` at least one, or a rule with `see`."),
        ),
    )
    return create_model(
        "Config",
        __base__=_ConfigSettings,
        __doc__="A streamer config.",
        model=(pipeline.settings, Field(default_factory=pipeline.settings, description="The model.")),
        streams=(dict[Name, stream], Field(min_length=1, description="The streams by name.")),
        web=(WebField, Field(None, description="The web page; without this key there is none.")),
    )


def _task_model(spec: TaskSpec, then: Any) -> type[BaseModel]:
    """Return the model of a task, with the keys of streamer and those of the pipeline."""
    task: Any = Literal[spec.task]
    keys: dict[str, Any] = {key: (field.annotation, field) for key, field in spec.parameters.model_fields.items()}
    made = create_model(spec.task, __base__=TaskSettings, __doc__=spec.summary, task=(task, ...), then=then, **keys)
    made.described_in = spec.parameters
    return made


def _then_field(specs: Sequence[TaskSpec]) -> Any:
    """Return type and default of `then`; `specs` are the tasks that can be follow-ups."""
    models: list[Any] = []
    for spec in specs:
        task: Any = Literal[spec.task]
        # The answer before gives the region or the text.
        fields = {key: field for key, field in spec.parameters.model_fields.items() if key not in ("region", "text")}
        keys: dict[str, Any] = {key: (field.annotation, field) for key, field in fields.items()}
        then: Any = list["FollowUpEntry"]  # type: ignore[name-defined]  # noqa: F821
        model = create_model(
            f"{spec.task}_follow_up",
            __base__=FollowUpSettings,
            __doc__=spec.summary,
            task=(task, ...),
            then=(then, _THEN),
            **keys,
        )
        model.described_in = spec.parameters
        models.append(model)
    if not models:
        return list[Any], Field([], max_length=0)
    # A named type: pydantic builds its checks once, not once for each place in each chain.
    entry = TypeAliasType("FollowUpEntry", Annotated[reduce(or_, models), Field(discriminator="task")])  # type: ignore[misc]
    for made in models:
        made.model_rebuild(_types_namespace={"FollowUpEntry": entry})
    return list[entry], _THEN  # type: ignore[valid-type]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file."""
    schema = schema_model().model_json_schema()
    schema["required"].remove("agent")  # filled in from the file's name
    schema["patternProperties"] = {f"^{EXTENSION}": {}}  # ignored
    return schema


_schema_of_problems = cache(json_schema)
"""Makes the schema once: this takes longer than to check a config."""


def load(path: Path) -> Config:
    """Read a YAML file. Raises ConfigError with one `file:line: key: problem` per line."""
    file = YamlFile(path)
    raw = file.data
    if isinstance(raw, dict):
        raw = {"agent": _name_from(path), **raw}
    return _config(raw, file)


def at_host(config: Config, host: str) -> Config:
    """Return the config of a host of its cluster, whose agent has a name of its own. Raises ConfigError."""
    if config.cluster is None or host not in config.cluster.hosts:
        known = ", ".join(config.cluster.hosts) if config.cluster else "no `cluster`"
        raise ConfigError(f"unknown host {host[:70]}: the config has {known}")
    name = agent_name(config.name, host)
    return replace(config, name=name, host=host, raw={**config.raw, "agent": name})


def place(path: Path, where: Where) -> str:
    """Return `file:line: key` of a place in a file that `load` has read, for an error that is found later."""
    return f"{path}:{YamlFile(path).line(where)}: {dotted(where)}"


def from_mapping(raw: Mapping[str, Any]) -> Config:
    """Read plain data as a user gives it. Raises ConfigError with one `key: problem` per line."""
    return _config({"agent": "agent", **raw}, None)


def from_checked(raw: Mapping[str, Any], is_part: bool = False) -> Config:
    """Read plain data that was checked when the agent started: `Config.raw`, or the part of it that a child has.

    Files are not looked at again: one that is gone meanwhile concerns only the process that uses it. Raises ConfigError
    for changed keys. In a part nothing is compared with the parts of other processes.
    """
    return _config(raw, None, checked=True, is_part=is_part)


def _name_from(path: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:63] or "agent"


def _config(raw: Any, file: YamlFile | None, *, checked: bool = False, is_part: bool = False) -> Config:
    problems: list[Problem] = []
    try:
        config: Any = schema_model().model_validate(raw, context={"checked": checked})
    except ValidationError as error:
        problems = problems_of(error, raw, _schema_of_problems())
    else:
        raw = _with_tasks(raw)
        if not is_part:
            problems.extend(cross_problems(config))
            problems.extend(mode_problems(config.rules, config.modes or {}))
        local = config.timezone or local_zone()
        streams = {name: _stream(name, config, local, problems, is_part) for name in config.streams}
        if not (problems or is_part):
            made = make_tasks(config.rules, streams, find_pipeline(), config.model, config.serve is not None)
            problems += made.problems
            if made.entries and not problems:
                return replace(_config(made.added_to(raw), file, checked=checked), made=made.rules)
            if not made.problems:
                problems += rule_problems(config.rules, streams, find_pipeline(), config.sinks)
    if problems:
        raise _error(problems, file)
    return Config(
        name=config.agent,
        model=config.model,
        streams=streams,
        sinks=tuple(config.sinks),
        web=config.web,
        raw=raw,
        outputs=tuple(config.outputs),
        rules=config.rules,
        modes=config.modes or {},
        notify=config.notify,
        snapshots=config.snapshots,
        serve=config.serve,
        cluster=config.cluster,
        ledger=config.ledger,
        timezone=local,
        is_part=is_part,
    )


def _with_tasks(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain data with the key `tasks` in every stream."""
    return {**raw, "streams": {name: {"tasks": [], **stream} for name, stream in raw["streams"].items()}}


def _error(problems: list[Problem], file: YamlFile | None) -> ConfigError:
    lines = []
    for where, what in sorted(problems, key=lambda problem: file.line(problem[0]) if file else 0):
        place = f"{file.path}:{file.line(where)}: " if file else ""
        lines.append(f"{place}{dotted(where)}{': ' if where else ''}{what}")
    return ConfigError(redact("\n".join(lines)))


def _stream(name: str, config: Any, local: ZoneInfo, problems: list[Problem], is_part: bool) -> Stream:
    """Return a stream without the tasks that have problems, which are appended to `problems`."""
    tasks, stream, pipeline = [], config.streams[name], find_pipeline()
    for index, entry in enumerate(stream.tasks):
        spec = pipeline.tasks()[entry.task]
        parameters = spec.parameters
        given = {key: getattr(entry, key) for key in parameters.model_fields if key in entry.model_fields_set}
        found = list(task_problems(entry, spec, stream.zones, stream.source.pace))
        try:
            params = parameters.model_validate(given)
        except ValidationError as error:  # checks of the pipeline that need several keys
            found += problems_of(error, given, {})
        else:
            refused = None if is_part else pipeline.refuse(config.model, entry.task, params)
            found += [((), refused)] if refused else []
        if found:
            problems.extend((("streams", name, "tasks", index, *where), what) for where, what in found)
        else:
            task = build_task(entry, params, stream.zones, local)
            where = ("streams", name, "tasks", index)
            then, wrong = build_follow_ups(entry.then, task, pipeline, config.model, where)
            problems += wrong
            tasks.append(replace(task, then=then))
    others = stream.zones, stream.motion, stream.lines, stream.host_labels, stream.collect
    return Stream(stream.source, tuple(tasks), *others)
