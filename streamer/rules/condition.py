"""Conditions with three values: true, false, and None for no answer.

A leaf looks at the answers of one task, or at the state of the stream; `Compound` joins conditions. The state of a leaf
is a dataclass of plain values, so that it can be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamer.config.condition import Condition as Settings
from streamer.config.condition import Count
from streamer.core.patterns import Pattern
from streamer.events.incident_data import Reason
from streamer.events.part import UnixSecond
from streamer.rules.geometry import foot, is_inside
from streamer.rules.observation import (
    NOTHING,
    AnsweredTime,
    Finding,
    Observation,
    Selection,
    Selector,
    Shape,
    is_reached,
)
from streamer.types import Point

Truth = bool | None
Zones = Mapping[str, Sequence[Point]]


class Condition(Protocol):
    """A condition, evaluated for one stream."""

    @property
    def value(self) -> Truth: ...

    @property
    def value_of_nothing(self) -> Truth:
        """Value if all leaves are false."""

    def leaves(self) -> Iterator[Leaf]: ...

    def reasons(self) -> Iterator[Reason]:
        """Yield the parts that are true, or that make the whole true by being false."""


@dataclass(slots=True)
class LeafState:
    """State that all leaves have."""

    value: Truth = None
    event: str | None = None
    """Event of the newest answer."""
    model: str | None = None
    measured: float | None = None
    score: float | None = None


class Leaf:
    """A condition on the answers of one task. Subclasses define `_look`."""

    is_quiet = False
    """It stays false at an answer without objects of its label."""
    is_momentary = False
    """It is true for one answer only."""

    def __init__(self, settings: Settings, task: str | None) -> None:
        self.settings, self.task = settings, task
        self._text = str(settings)
        self.state = LeafState()
        self.finding = NOTHING
        """Objects in the newest answer, if the condition is true."""

    @property
    def value(self) -> Truth:
        return self.state.value

    @property
    def value_of_nothing(self) -> Truth:
        return False

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def observe(self, seen: Observation) -> None:
        """Take the outcome of the leaf's task on a frame."""
        state = self.state
        self.finding = NOTHING
        if seen.outcome == "answer":
            state.event, state.model, state.score = seen.event, seen.model, None
            state.value = self._look(seen)
        elif seen.outcome == "unchanged":
            self._look_again(seen)
        else:
            state.value = None

    def lose(self) -> None:
        """Have no answer from here on: the stream is down."""
        self.state.value = None

    def check(self) -> None:
        """Raise ValueError for a stored state that this condition cannot have."""

    def reasons(self) -> Iterator[Reason]:
        state, settings = self.state, self.settings
        yield Reason(
            condition=self._text,
            value=None if state.measured is None else round(state.measured, 3),
            threshold=self._threshold(),
            score=state.score,
            min_score=settings.min_score,
            clear_score=self._clear_score,
            model=state.model,
            event=state.event,
        )

    def _look(self, seen: Observation) -> Truth:
        """Return the value for a new answer."""
        raise NotImplementedError

    def _look_again(self, seen: Observation) -> None:
        """Update the value when the answer before still holds."""

    def _keep(self, finding: Finding) -> None:
        self.finding, self.state.score = finding, None if finding.best is None else finding.best.score

    def _threshold(self) -> str | None:
        return None

    @property
    def _clear_score(self) -> float | None:
        settings = self.settings
        return settings.min_score if settings.clear_score is None else settings.clear_score

    def _passes(self, score: float | None) -> bool:
        """Return whether a score is high enough; an unknown score is not, if one is needed."""
        lowest = self._clear_score if self.state.value else self.settings.min_score
        return lowest is None or (score is not None and score >= lowest)


class ObjectLeaf(Leaf):
    """A number of objects with a label, in a zone if there is one."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones) -> None:
        super().__init__(settings, task)
        self.label = None if settings.label is None else settings.label.casefold()
        self._zone = None if settings.zone is None else zones[settings.zone]
        self._count = settings.count or Count(">=", 1)
        self.is_quiet = settings.motion is None and not self._count.holds(0)
        self.selector = Selector(self.label, settings.zone, settings.min_score)
        """Its choice of objects while it is not true."""
        self.true_selector = self.selector._replace(lowest=self._clear_score)

    def select(self, seen: Observation) -> Sequence[Shape]:
        """Return the objects that count, and keep their finding."""
        selection = self.selection(seen, self.true_selector if self.state.value else self.selector)
        self._keep(selection.finding)
        return selection.shapes

    def selection(self, seen: Observation, selector: Selector) -> Selection:
        """Return the objects of one of the leaf's two selectors."""
        found = seen.selections.get(selector)
        if found is None:
            lowest, zone = selector.lowest, self._zone
            shapes = [
                shape
                for shape in (seen.objects if self.label is None else seen.by_label.get(self.label, ()))
                if (lowest is None or (shape.score is not None and shape.score >= lowest))
                and (zone is None or is_inside(foot(shape.box), zone))
            ]
            found = seen.selections[selector] = Selection(shapes, finding_of(shapes))
        return found

    def _look(self, seen: Observation) -> Truth:
        count = len(self.select(seen))
        self.state.measured = count
        return self._count.holds(count)

    def _threshold(self) -> str | None:
        return str(self._count)


@dataclass(slots=True)
class TimedState(LeafState):
    time: AnsweredTime = field(default_factory=AnsweredTime)


class TimedLeaf(ObjectLeaf):
    """A condition on the time between answers."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones) -> None:
        super().__init__(settings, task, zones)
        self.state: TimedState = TimedState()

    @property
    def _now(self) -> float:
        """Answered second of the newest answer."""
        return self.state.time.seconds

    def observe(self, seen: Observation) -> None:
        self.state.time.advance(seen.moment, seen.outcome != "none")
        super().observe(seen)

    def lose(self) -> None:
        super().lose()
        self.state.time.last = None


@dataclass(slots=True)
class AbsentState(TimedState):
    empty_since: float | None = None
    """Answered second."""


class AbsentLeaf(TimedLeaf):
    """No object seen for a time, counted over answers only."""

    def __init__(self, settings: Settings, task: str | None, zones: Zones) -> None:
        super().__init__(settings, task, zones)
        self.state: AbsentState = AbsentState()

    def _look(self, seen: Observation) -> Truth:
        if self.select(seen):
            self.state.empty_since = None
        elif self.state.empty_since is None:
            self.state.empty_since = self._now
        return self._is_absent()

    def _look_again(self, seen: Observation) -> None:
        self.state.value = self._is_absent()

    def _is_absent(self) -> bool:
        since = self.state.empty_since
        self.state.measured = 0.0 if since is None else self._now - since
        return since is not None and is_reached(self.settings.absent or 0.0, self.state.measured)

    def _threshold(self) -> str | None:
        return f">= {self.settings.absent:g} s"


class TextLeaf(Leaf):
    """A text that matches an expression: a recognized one, or a caption."""

    def _look(self, seen: Observation) -> Truth:
        texts = list(seen.texts) if self.settings.reads is not None else []
        if seen.text is not None:
            texts.append(Shape(seen.text, seen.score, (0.0, 0.0, 1.0, 1.0)))
        pattern: Pattern = self.settings.reads or self.settings.says  # type: ignore[assignment]
        finding = finding_of([text for text in texts if self._passes(text.score) and pattern.found_in(text.label)])
        self._keep(finding)
        self.state.measured = finding.number
        return finding.number > 0

    def _threshold(self) -> str | None:
        return ">= 1"


@dataclass(slots=True)
class StreamLeafState(LeafState):
    since: UnixSecond | None = None
    """Unix second from which on the stream is in the state."""


class StreamLeaf(Leaf):
    """A state of the stream that lasts for a time."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, None)
        assert settings.stream is not None
        self._wanted = settings.stream
        self.state: StreamLeafState = StreamLeafState()

    def change(self, state: str, event: str, now: float) -> None:
        """Take a change of the stream's state."""
        is_wanted = state == self._wanted.state
        self.state.event = event
        if not is_wanted:
            self.state.since = None
        elif self.state.since is None:
            self.state.since = now
        self.expire(now)

    def lose(self) -> None:
        pass

    @property
    def deadline(self) -> float | None:
        """Unix second at which the value becomes true."""
        return None if self.state.since is None or self.state.value else self.state.since + self._wanted.seconds

    def expire(self, now: float) -> None:
        """Update the value."""
        since = self.state.since
        self.state.measured = None if since is None else max(0.0, now - since)
        self.state.value = since is not None and now >= since + self._wanted.seconds

    def rebase(self, now: float) -> None:
        """Let no time lie in the future: the clock of the computer was set back."""
        if self.state.since is not None:
            self.state.since = min(self.state.since, now)

    def _threshold(self) -> str | None:
        return f">= {self._wanted.seconds:g} s"


class Compound:
    """Conditions that are all true, or of which one is true; or a condition that is false.

    With a part without an answer, the value is what every answer of that part would give, else None.
    """

    def __init__(self, parts: Sequence[Condition], join: Callable[[Sequence[Truth]], Truth]) -> None:
        self._parts, self._join = parts, join

    @property
    def value(self) -> Truth:
        return self._join([part.value for part in self._parts])

    @property
    def value_of_nothing(self) -> Truth:
        return self._join([part.value_of_nothing for part in self._parts])

    def leaves(self) -> Iterator[Leaf]:
        for part in self._parts:
            yield from part.leaves()

    def reasons(self) -> Iterator[Reason]:
        for part in self._parts:
            if part.value or self._join is negation:
                yield from part.reasons()


def conjunction(values: Sequence[Truth]) -> Truth:
    return False if False in values else None if None in values else True


def disjunction(values: Sequence[Truth]) -> Truth:
    return True if True in values else None if None in values else False


def negation(values: Sequence[Truth]) -> Truth:
    return None if values[0] is None else not values[0]


def finding_of(shapes: Sequence[Shape]) -> Finding:
    """Return a finding with all of these objects."""
    return Finding(len(shapes), max(shapes, key=_score)) if shapes else NOTHING


def _score(shape: Shape) -> float:
    return -1.0 if shape.score is None else shape.score
