"""The `rules` of a config: conditions on events that make incidents, and the checks of a rule against its streams."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from streamer.config.calendar import TimeWindowsField
from streamer.config.condition import MOMENTARY, Condition
from streamer.config.follow_up import all_follow_ups
from streamer.config.validation import Problem, nearest
from streamer.config.yaml_file import Where
from streamer.core.settings import Name, Seconds, Settings
from streamer.events.incident_data import SEVERITIES, Severity
from streamer.events.sinks import RuleSubject
from streamer.events.snapshots.folder import FOLDER
from streamer.events.snapshots.settings import Snapshots
from streamer.types import Pipeline, ResultKind, Task

RULES = "rules"
"""Name of the rules' position in the ledger; no sink may have it while there are rules."""
STATE_FILE = "rules.db"
"""File name of the state of the rules in the agent's state folder."""
GRACE_S = 10.0
"""Default of `grace`."""
PLACEHOLDERS = ("rule", "stream", "label", "count", "score", "severity", "description")
_HITS = re.compile(r"(\d{1,3})\s+of\s+(\d{1,3})")
_MAX_HITS = 100
_SHAPES: frozenset[ResultKind] = frozenset({"boxes", "polygons", "boxes_or_polygons"})
_TRACKED: frozenset[ResultKind] = frozenset({"boxes"})
_TRACKED_TEXT: frozenset[ResultKind] = frozenset({"boxes", "boxes_or_polygons"})
"""Kinds of result whose objects have track ids, for `label` and for `see`. The boxes of a text are rarely outlines."""


class Hits(NamedTuple):
    """Number of true answers among the last ones."""

    true: int
    of: int


def parse_hits(value: Any) -> Hits:
    """Return the Hits of `2 of 3`. Raises ValueError."""
    match = _HITS.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be such as `2 of 3`: true answers of the last answers")
    hits = Hits(int(match[1]), int(match[2]))
    if not 1 <= hits.true <= hits.of <= _MAX_HITS:
        raise ValueError(f"`{value}` can never be met: both must be 1 to {_MAX_HITS}, the first not above the second")
    return hits


def parse_say(value: Any) -> str:
    """Return a checked template. Raises ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    try:
        parts = list(Formatter().parse(value))
    except ValueError:
        raise ValueError("has a brace without its partner: write {{ for a brace") from None
    for _, name, spec, conversion in parts:
        if name in PLACEHOLDERS and (spec or conversion):
            raise ValueError(f"`{{{name}}}` takes no format: remove what follows `{name}`")
        if name is not None and name not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder `{{{name}}}`{nearest(name, PLACEHOLDERS)}")
    return value


HitsField = Annotated[Hits, BeforeValidator(parse_hits, json_schema_input_type=str)]
SayField = Annotated[str, BeforeValidator(parse_say, json_schema_input_type=str)]


class Hold(Settings):
    """Evidence that is needed before an incident starts."""

    hits: HitsField | None = None
    """True answers of the last ones: `2 of 3`. Default: 1 of 1."""
    for_: Seconds | None = Field(None, alias="for")
    """Time for which the condition was true."""


class Again(Settings):
    """Repetition of incidents."""

    cooldown: Seconds | None = None
    """Shortest time from one start to the next, per rule and stream."""


class Escalate(Settings):
    """A severity that rises while the incident lasts."""

    after: Seconds
    """Time from the start."""
    to: Severity
    """The new severity."""


class Rule(Settings):
    """A condition, and the incidents that it makes."""

    when: Condition
    """The condition."""
    hold: Hold = Hold()
    """Evidence that is needed before an incident starts."""
    grace: Seconds | None = None
    """Time without a true answer after which the incident ends. Default: 10s; none with `stream`."""
    again: Again = Again()
    """Repetition of incidents."""
    between: TimeWindowsField | None = None
    """Start incidents within these hours only: `22:00-06:00`, `mon-fri 07:00-18:00`, or a list of such."""
    modes: Annotated[list[Name], Field(min_length=1)] | None = None
    """Start incidents in these modes only, and end them when another mode begins. Default: all modes."""
    severity: Severity = "medium"
    """Severity: info, low, medium, high, critical."""
    escalate: Escalate | None = None
    """A severity that rises while the incident lasts."""
    say: SayField = "{rule} at {stream}"
    """Text of the incident, with {rule}, {stream}, {label}, {count}, {score}, {severity} and {description}."""
    notify: list[Name] = Field([])
    """Targets of `notify:` that get notifications of the incidents."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        escalate = self.escalate
        if escalate is not None and SEVERITIES.index(escalate.to) <= SEVERITIES.index(self.severity):
            raise ValueError(f"`escalate` must be `to` a severity above {self.severity}")
        leaves = [leaf for _, leaf in self.when.leaves_with_place()]
        momentary = next((leaf.motion for leaf in leaves if leaf.motion in MOMENTARY), None)
        if momentary and (self.hold.for_ or (self.hold.hits and self.hold.hits.true > 1)):
            raise ValueError(f"can never fire: `{momentary}` is true for one answer, and `hold` needs more")
        if self.is_about_streams and (self.hold.for_ or self.hold.hits or self.grace):
            raise ValueError("`hold` and `grace` do not go with `stream`: write `stream: down for 1m`")
        return self

    @property
    def is_about_streams(self) -> bool:
        """True if a part of the condition is about the state of the stream."""
        return any(leaf.stream is not None for _, leaf in self.when.leaves_with_place())

    @property
    def subject(self) -> RuleSubject | None:
        """Subject of all parts of the condition; None if they differ or one of them must not be true."""
        conditions = [self.when, *(part for _, part in _parts_of(self.when, ()))]
        subjects = {_subject_of(one) for one in conditions if not one.parts}
        return subjects.pop() if len(subjects) == 1 and not any(one.not_ for one in conditions) else None

    @property
    def words(self) -> Sequence[str]:
        """Words of the `state` that is the whole condition; empty for another condition."""
        return () if self.when.state is None else self.when.state.words

    @property
    def describes(self) -> bool:
        """True if the text has a text of the model."""
        return any(name == "description" for _, name, _, _ in Formatter().parse(self.say))

    @property
    def grace_s(self) -> float:
        return self.grace if self.grace is not None else 0.0 if self.is_about_streams else GRACE_S


def _subject_of(condition: Condition) -> RuleSubject | None:
    if condition.stream is not None:
        return condition.stream.state
    if condition.motion == "absent":
        return "absence"
    if condition.reads is not None or condition.says is not None:
        return "text"
    return "objects" if condition.label is not None or condition.see is not None else None


class Answering(NamedTuple):
    """The streams of a rule that can answer it."""

    tasks: dict[str, dict[Where, str]]
    """Name of the task that answers each part of the condition, by stream and place."""
    problems: list[Problem]


def answering(rule: Rule, streams: Mapping[str, Any], kinds: Mapping[str, ResultKind]) -> Answering:
    """Return which tasks of which streams answer a rule. `streams`: `config.model.Stream`; `kinds`: results by task."""
    found, problems = Answering({}, []), []
    for inside, inner in _parts_of(rule.when, ("when",)):
        if inner.streams is not None:
            found.problems.append(((*inside, "streams"), "`streams` belongs to the outermost condition"))
    named = rule.when.streams
    for index, name in enumerate(named or ()):
        if name not in streams:
            found.problems.append(
                (("when", "streams", index), f"unknown stream `{name}`{nearest(name, list(streams))}")
            )
    for name in [name for name in named or streams if name in streams]:
        tasks: dict[Where, str] = {}
        wrong: list[Problem] = []
        unclear: list[Problem] = []
        for place, leaf in rule.when.leaves_with_place():
            wrong += place_problems(leaf, place, name, streams[name])
            if leaf.stream is not None:
                continue
            able = able_tasks(leaf, streams[name], kinds)
            if len(able) == 1:
                tasks[place] = able[0].name
            elif able:
                unclear.append((("when", *place), _which_task(leaf, name, able)))
            else:
                wrong.append((("when", *place), _no_task(leaf, name, streams[name])))
        if not (wrong or unclear):
            found.tasks[name] = tasks
        elif named is not None:
            found.problems.extend(wrong)
        found.problems.extend(unclear)  # never left out in silence: the stream can answer
        problems += wrong
    if not found.tasks and not found.problems:
        where, what = problems[0]
        found.problems.append((where, f"no stream can answer this: {what}"))
    return found


def rule_problems(
    rules: Mapping[str, Rule], streams: Mapping[str, Any], pipeline: Pipeline, sinks: list[Any]
) -> Iterator[Problem]:
    """Yield the problems of rules that depend on the rest of the config."""
    kinds = {task: spec.result for task, spec in pipeline.tasks().items()}
    for name, rule in rules.items():
        yield from ((("rules", name, *where), what) for where, what in answering(rule, streams, kinds).problems)
    for index, sink in enumerate(sinks if rules else ()):
        if sink.name == RULES:
            yield ("sinks", index, "name"), f"`{RULES}` is the name of the rules' own position in the ledger"


def needs_rules_process(rules: Mapping[str, Rule], snapshots: Snapshots, state: Path) -> bool:
    """Return whether there are rules, incidents of removed rules to end, or snapshots to delete in time.

    `state`: the agent's state folder.
    """
    return bool(rules) or snapshots.results or (state / STATE_FILE).exists() or (state / FOLDER).exists()


def able_tasks(condition: Condition, stream: Any, kinds: Mapping[str, ResultKind]) -> list[Task]:
    """Return the tasks of a stream that can answer a condition; of one that names its task, that task alone."""
    tracked = _TRACKED if condition.see is None else _TRACKED_TEXT
    scheduled = [task for task in stream.tasks if not condition.needs_tracks or kinds[task.task] in tracked]
    follow_ups = () if condition.needs_tracks else (one for task in stream.tasks for one in all_follow_ups(task))
    return [
        task
        for task in (*scheduled, *follow_ups)
        if condition.task in (None, task.name) and _can_answer(condition, task, kinds[task.task])
    ]


def _which_task(condition: Condition, stream_name: str, able: Sequence[Task]) -> str:
    names = ", ".join(f"`{task.name}`" for task in able)
    return f"several tasks of `{stream_name}` can answer `{condition}`: name one with `task`: {names}"


def _no_task(condition: Condition, stream_name: str, stream: Any) -> str:
    names = [one.name for task in stream.tasks for one in (task, *all_follow_ups(task))]
    if condition.task is not None and condition.task not in names:
        return f"unknown task `{condition.task}` of stream `{stream_name}`{nearest(condition.task, names)}"
    return f"no task of stream `{stream_name}` can answer `{condition}`{_advice(condition)}"


def _advice(condition: Condition) -> str:
    """Return which task to add, for conditions that say it."""
    if condition.reads is not None:
        return ": add a task that reads text, such as `ocr_with_region`"
    if condition.says is not None:
        return ": add a task that describes the picture, such as `caption`"
    if condition.label is not None and condition.task is None:
        return f": add a task that finds objects, such as `object_detection`, or write `see: {condition.label}`"
    return ""


def question(text: str) -> str:
    """Return a text in the form in which equal questions are equal."""
    return text.strip().casefold()


def _can_answer(condition: Condition, task: Task, kind: ResultKind) -> bool:
    params = task.params
    if condition.reads is not None:
        return kind == "quads" or (kind == "text" and condition.task is not None)
    if condition.says is not None:
        return kind == "text"
    if kind not in _SHAPES:
        return False
    if condition.state is not None:
        searched = (params.labels or ()) if params.prompt_text is not None else ()
        return {question(one) for one in searched} == {question(one) for one in condition.searched}
    if condition.see is not None:
        text = params.prompt_text
        return text is not None and question(text) == question(condition.see)
    label = question(condition.label or "")
    if params.labels is not None:
        return any(question(one) == label for one in params.labels)
    # The labels of a searched text are that text or parts of it: what else it can answer, the rule must say.
    return params.prompt_text is None or question(params.prompt_text) == label or condition.task is not None


def place_problems(condition: Condition, place: Where, name: str, stream: Any) -> Iterator[Problem]:
    """Yield the problems of the zones, or of the line, that a condition names. `name`: that of the stream."""
    for key, zone in condition.zones:
        if zone not in stream.zones:
            known = nearest(zone, list(stream.zones)) if stream.zones else ": the stream has no `zones`"
            yield ("when", *place, key), f"unknown zone `{zone}` of stream `{name}`{known}"
    line = condition.line
    if line is not None and line not in stream.lines:
        known = nearest(line, list(stream.lines)) if stream.lines else ": the stream has no `lines`"
        if line in stream.zones:
            known = f": it is a zone, for `enters`, `leaves` and lists such as `[{line}, …]`"
        yield ("when", *place, "crosses"), f"unknown line `{line}` of stream `{name}`{known}"


def _parts_of(condition: Condition, where: Where) -> Iterator[tuple[Where, Condition]]:
    """Yield the conditions inside a condition, and those inside them, each with its place."""
    for place, part in condition.parts:
        yield (*where, *place), part
        yield from _parts_of(part, (*where, *place))
