"""The `when` of a rule: a condition on the answers of tasks and on the state of a stream."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from streamer.config.yaml_file import Where
from streamer.config.zone import parse_line
from streamer.core.patterns import PatternField
from streamer.core.settings import Name, Seconds, Settings, parse_seconds
from streamer.events.sinks import NO_WORD
from streamer.types import Point

SUBJECTS = ("see", "label", "reads", "says", "state", "stream", "all", "any", "not")
_TRACKED = ("appears", "disappears", "enters", "leaves", "crosses", "dwell")
"""Keys that need objects with a track id."""
_MOTIONS = (*_TRACKED, "absent", "unusual")
_OBJECT_KEYS = ("count", "zone", "direction", *_MOTIONS)
MOMENTARY = frozenset({"appears", "disappears", "enters", "leaves", "crosses"})
"""Keys whose condition is true for one answer only."""
_COUNT = re.compile(r"(>=|<=|==|>|<)?\s*(\d{1,6})")
_STREAM = re.compile(r"(down|up)(?:\s+for\s+(.+))?")
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


class Count(NamedTuple):
    """A comparison with a number of objects."""

    operator: str
    number: int

    def holds(self, count: int) -> bool:
        return _OPERATORS[self.operator](count, self.number)

    def __str__(self) -> str:
        return f"{self.operator} {self.number}"


class StreamState(NamedTuple):
    """A state of a stream, and the seconds that it must last."""

    state: Literal["down", "up"]
    seconds: float


def parse_count(value: Any) -> Count:
    """Return the Count of `>= 3` or of a number. Raises ValueError, also for one that is always or never true."""
    match = _COUNT.fullmatch(str(value).strip()) if isinstance(value, (str, int)) and value is not True else None
    if match is None:
        raise ValueError("must be a comparison such as `>= 3`, `== 0` or `< 2`")
    count = Count(match[1] or "==", int(match[2]))
    if count == (">=", 0):
        raise ValueError("`>= 0` is always true")
    if count == ("<", 0):
        raise ValueError("`< 0` is never true")
    return count


def parse_stream_state(value: Any) -> StreamState:
    """Return the StreamState of `down for 1m`. Raises ValueError."""
    match = _STREAM.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be `down`, `down for 1m`, `up` or `up for 1m`")
    return StreamState("down" if match[1] == "down" else "up", parse_seconds(match[2]) if match[2] else 0.0)


def parse_true(value: Any) -> Any:
    """Return True. Raises ValueError for any other value."""
    if value is not True:
        raise ValueError("can only be `true`: leave the key out, or put the condition under `not`")
    return value


class Crossing(NamedTuple):
    """Places that an object passes. Either `zones` or a line is given."""

    zones: tuple[str, ...] = ()
    """Zones in the order in which the object enters them."""
    line: str | None = None
    """Name of the line; None if only its ends are given."""
    ends: tuple[Point, Point] | None = None


def parse_crossing(value: Any) -> Crossing:
    """Return the Crossing of a line's name, of the two ends of a line, or of a list of zones. Raises ValueError."""
    if isinstance(value, str):
        return Crossing(line=value)
    if not isinstance(value, (list, tuple)) or len(value) < 2 or any(type(one) is not type(value[0]) for one in value):
        raise ValueError(
            "must be the name of a line, zones in their order, `[street, drive]`, or the ends of a line, "
            "`[[0.1, 0.5], [0.9, 0.5]]`"
        )
    if not isinstance(value[0], str):
        return Crossing(ends=parse_line(value))
    if any(first == second for first, second in pairwise(value)):
        raise ValueError("names one zone twice in a row")
    return Crossing(zones=tuple(value))


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Score = Annotated[float, Field(gt=0, le=1)]
CountField = Annotated[Count, BeforeValidator(parse_count, json_schema_input_type=str | int)]
StreamStateField = Annotated[StreamState, BeforeValidator(parse_stream_state, json_schema_input_type=str)]
CrossingField = Annotated[
    Any, BeforeValidator(parse_crossing, json_schema_input_type=Name | list[Name] | list[tuple[float, float]])
]
TrueField = Annotated[Literal[True], BeforeValidator(parse_true)]
Conditions = Annotated[list["Condition"], Field(min_length=1)]


class ObjectState(Settings):
    """A state of an object that does not move, such as a gate."""

    of: Text
    """The object: `gate`."""
    words: Annotated[list[Text], Field(min_length=2, max_length=8)]
    """Words for its states, each of which is searched with the object: `[open, closed]`."""
    is_: Text = Field(alias="is")
    """The word for which the condition is true."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        folded = [word.casefold() for word in self.words]
        if repeated := next((word for index, word in enumerate(folded) if word in folded[:index]), None):
            raise ValueError(f"`words` has `{repeated}` twice")
        if NO_WORD.casefold() in folded:
            raise ValueError(f"`words` cannot have `{NO_WORD}`: sensors show it when there is no answer")
        if self.is_.casefold() not in folded:
            raise ValueError(f"`is` must be one of `words`: {', '.join(f'`{word}`' for word in self.words)}")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the model searches for, by state."""
        return tuple(f"{word} {self.of}" for word in self.words)

    @property
    def wanted_word(self) -> str:
        """The one of `words` that is `is`."""
        return next(word for word in self.words if word.casefold() == self.is_.casefold())

    def word_of(self, text: str) -> str:
        """Return the word of one of `texts`, in any case."""
        return dict(zip(map(str.casefold, self.texts), self.words, strict=True))[text.casefold()]


class Condition(Settings):
    """A condition. It is true, false, or without an answer; a condition without an answer neither fires nor clears."""

    see: Text | None = None
    """Object that a task with this text finds."""
    label: Text | None = None
    """Object with this label."""
    reads: PatternField | None = None
    """Regular expression that a recognized text matches."""
    says: PatternField | None = None
    """Regular expression that a caption matches."""
    state: ObjectState | None = None
    """State of an object that does not move: `{of: gate, words: [open, closed], is: open}`."""
    stream: StreamStateField | None = None
    """State of the stream: `down`, `up`, `down for 1m`."""
    all: Conditions | None = None
    """Conditions that are all true."""
    any: Conditions | None = None
    """Conditions of which one is true."""
    not_: Condition | None = Field(None, alias="not")
    """Condition that is false."""
    streams: Annotated[list[Name], Field(min_length=1)] | None = None
    """Streams of the rule. Default: all streams that can answer it."""
    task: Name | None = None
    """Name of the task that answers. Default: the only one that can; without one, `see` and `state` make it."""
    every: Seconds | None = None
    """Interval of the task that the rule makes. Default: 2s."""
    min_score: Score | None = None
    """Lowest score at which the condition becomes true. Default: that of the task."""
    clear_score: Score | None = None
    """Lowest score at which it stays true. Default: `min_score`."""
    count: CountField | None = None
    """Number of objects: `>= 3`. Default: `>= 1`."""
    zone: Name | None = None
    """Zone in which the lower edge of the object's box has its middle."""
    appears: TrueField | None = None
    """True when an object is new."""
    disappears: TrueField | None = None
    """True when an object is gone."""
    enters: Name | None = None
    """True when an object enters this zone."""
    leaves: Name | None = None
    """True when an object leaves this zone."""
    crosses: CrossingField | None = None
    """True when an object crosses the line with this name or these ends, or has entered these zones in this order."""
    direction: Literal["left", "right"] | None = None
    """Side of the line to which an object crosses, as seen from its first end to its second. Default: both."""
    dwell: Seconds | None = None
    """True when an object has stayed for this time."""
    absent: Seconds | None = None
    """True when no object was seen for this time."""
    unusual: Literal[True] | None = None
    """True when the object is there at an hour of the day at which it was seen on at most a tenth of the last 28 days.
    Without an answer until there were answers in this hour on seven days."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [SUBJECTS[index] for index, value in enumerate(self._subjects()) if value is not None]
        if len(given) != 1:
            both = f" (given: {', '.join(given)}; `all` and `any` combine several)" if given else ""
            raise ValueError(f"give one of {', '.join(SUBJECTS)}{both}")
        subject = given[0]
        allowed: tuple[str, ...] = ()
        if subject in ("see", "label", "reads", "says", "state"):
            allowed = ("task", "min_score", "clear_score")
        if subject in ("see", "label"):
            allowed += _OBJECT_KEYS
        if subject == "state":
            allowed += ("zone",)
        if subject in ("see", "state"):
            allowed += ("every",)
        for key in ("task", "every", "min_score", "clear_score", *_OBJECT_KEYS):
            if getattr(self, key) is not None and key not in allowed:
                raise ValueError(f"`{key}` does not go with `{subject}`")
        if self.every is not None and self.task is not None:
            raise ValueError(f"give either `every` or `task`: the task `{self.task}` has its own interval")
        self._check_numbers()
        return self

    def _check_numbers(self) -> None:
        motions = [key for key in _MOTIONS if getattr(self, key) is not None]
        if len(motions) > 1:
            raise ValueError(f"give either `{motions[0]}` or `{motions[1]}`; join two conditions with `all` or `any`")
        if motions and motions != ["unusual"] and self.count is not None:
            raise ValueError(f"`count` does not go with `{motions[0]}`")
        if self.zone is not None and motions and motions[0] in ("enters", "leaves", "crosses"):
            raise ValueError(f"`zone` does not go with `{motions[0]}`, which names its place itself")
        if self.direction is not None and (self.crosses is None or self.crosses.zones):
            raise ValueError("`direction` is for `crosses` with a line")
        if self.clear_score is not None and self.min_score is None:
            raise ValueError("`clear_score` needs `min_score`")
        if self.clear_score is not None and self.min_score is not None and self.clear_score > self.min_score:
            raise ValueError(f"`clear_score` {self.clear_score:g} must not be above `min_score` {self.min_score:g}")

    def _subjects(self) -> tuple[Any, ...]:
        return (self.see, self.label, self.reads, self.says, self.state, self.stream, self.all, self.any, self.not_)

    @property
    def parts(self) -> tuple[tuple[Where, Condition], ...]:
        """The conditions inside this one, each with its place."""
        if self.not_ is not None:
            return ((("not",), self.not_),)
        key = "all" if self.all is not None else "any"
        return tuple(((key, index), part) for index, part in enumerate(self.all or self.any or ()))

    @property
    def motion(self) -> str | None:
        """The key of `appears`, `enters`, `dwell`, `absent` and the like that is given."""
        return next((key for key in _MOTIONS if getattr(self, key) is not None), None)

    @property
    def searched(self) -> tuple[str, ...]:
        """The texts that a task must search to answer; empty if the condition names no text."""
        if self.state is not None:
            return self.state.texts
        return () if self.see is None else (self.see,)

    @property
    def needs_tracks(self) -> bool:
        return self.motion in _TRACKED

    @property
    def zones(self) -> tuple[tuple[str, str], ...]:
        """Key and name of each zone that the condition names."""
        named = [(key, getattr(self, key)) for key in ("zone", "enters", "leaves")]
        named += [("crosses", zone) for zone in self.crosses.zones] if self.crosses is not None else []
        return tuple((key, zone) for key, zone in named if zone is not None)

    @property
    def line(self) -> str | None:
        """Name of the line that the condition names."""
        return None if self.crosses is None else self.crosses.line

    def with_line(self, lines: Mapping[str, tuple[Point, Point]]) -> Self:
        """Return the condition with the ends of the line that it names."""
        if self.crosses is None or self.crosses.line is None:
            return self
        return self.model_copy(update={"crosses": self.crosses._replace(ends=lines[self.crosses.line])})

    def leaves_with_place(self, where: Where = ()) -> Iterator[tuple[Where, Condition]]:
        """Yield the conditions that have no others inside, each with its place."""
        if not self.parts:
            yield where, self
        for place, part in self.parts:
            yield from part.leaves_with_place((*where, *place))

    def __str__(self) -> str:
        """Return the condition as text, for `why` and for lists."""
        if self.not_ is not None:
            return f"not ({self.not_})"
        if self.parts:
            return f" {'and' if self.all else 'or'} ".join(f"({part})" for _, part in self.parts)
        return self._own_text()

    def _own_text(self) -> str:
        if self.stream is not None:
            return f"stream {self.stream.state}" + (f" for {self.stream.seconds:g} s" if self.stream.seconds else "")
        if self.state is not None:
            return f"{self.state.of} is {self.state.is_}" + (f" in {self.zone}" if self.zone else "")
        for key in ("reads", "says"):
            if (pattern := getattr(self, key)) is not None:
                return f"{key} {pattern.text}"
        text = f"sees {self.see}" if self.see is not None else f"label {self.label}"
        text += f" in {self.zone}" if self.zone else ""
        if self.crosses is not None:
            return f"{text} crosses {' then '.join(self.crosses.zones) or self.crosses.line or 'the line'}"
        match self.motion:
            case None:
                return f"{text} {self.count}" if self.count else text
            case "enters" | "leaves" as key:
                return f"{text} {key} {getattr(self, key)}"
            case "dwell" | "absent" as key:
                return f"{text} {key} {getattr(self, key):g} s"
            case key:
                return f"{text} {self.count} {key}" if self.count else f"{text} {key}"
