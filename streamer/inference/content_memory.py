"""The content that a task with `changes` has sent, and the differences in later answers until they are confirmed.

A difference counts once `CONFIRMATIONS` answers in a row show it: one odd answer is no change. A statement that comes
and goes all the time is in doubt and needs more answers. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from streamer.core.content import Content, Relation, Thing

CONFIRMATIONS = 2
"""Answers in a row that must show a difference."""
MAX_DOUBT = 30
"""Most additional answers that a statement in doubt needs."""
BRIEF_ANSWERS = 5
"""A change that is reversed within this many answers puts its statement in doubt, as a difference does that ends
unconfirmed."""
STEADY_ANSWERS = 60
"""Answers without such an end after which a statement needs one answer less."""

Statement = Thing | Relation
Number = int | None
"""Number of things; None: several."""
_Numbers = dict[Thing, Number]
_Difference = tuple[Statement, bool]
"""A statement, and whether it has appeared; else it has disappeared."""


class Changes(NamedTuple):
    """Confirmed differences with the number of things that came or went."""

    appeared: dict[Statement, Number]
    disappeared: dict[Statement, Number]


class _Run(NamedTuple):
    """A difference in the newest answers."""

    answers: int
    """Answers in a row that show it."""
    number: Number
    """Smallest number in these answers."""


class ContentMemory:
    """Starts with the content that was sent. Not thread-safe."""

    def __init__(self, sent: Content) -> None:
        self._things = dict(sent.things)
        self._relations = {_pair(relation): relation for relation in sent.relations}
        self._runs: dict[_Difference, _Run] = {}
        self._answers = 0
        self._doubt: Counter[Statement] = Counter()
        """Additional answers that a statement needs."""
        self._doubted_at: dict[Statement, int] = {}
        self._changed_at: dict[Statement, int] = {}
        """Numbers of answers."""

    @property
    def content(self) -> Content:
        """The content that was sent, with all confirmed changes."""
        return Content(dict(self._things), tuple(self._relations.values()))

    @property
    def is_pending(self) -> bool:
        """Return whether the newest answer has differences that are not confirmed."""
        return bool(self._runs)

    def update(self, content: Content) -> Changes:
        """Take the content of the next answer; return the differences that are confirmed by it."""
        self._answers += 1
        self._calm_down()
        differences = dict(self._differences(content))
        for statement, _ in self._runs.keys() - differences.keys():
            self._mistrust(statement)
        self._runs = {
            difference: _Run(before.answers + 1, _smaller(before.number, number))
            for difference, number in differences.items()
            for before in [self._runs.get(difference, _Run(0, number))]
        }
        changes = Changes({}, {})
        for (statement, is_new), run in list(self._runs.items()):
            if run.answers >= CONFIRMATIONS + self._doubt[statement]:
                del self._runs[statement, is_new]
                (changes.appeared if is_new else changes.disappeared)[statement] = run.number
        for statement, number in changes.disappeared.items():
            self._remove(statement, number)
        for statement, number in changes.appeared.items():
            self._add(statement, number)
        for statement in changes.appeared.keys() | changes.disappeared.keys():
            if statement in self._changed_at:
                self._mistrust(statement)
            self._changed_at[statement] = self._answers
        return changes

    def _mistrust(self, statement: Statement) -> None:
        self._doubt[statement] = min(self._doubt[statement] + 1, MAX_DOUBT)
        self._doubted_at[statement] = self._answers

    def _calm_down(self) -> None:
        """Forget changes that are no longer brief, and doubt a little less."""
        brief = self._answers - BRIEF_ANSWERS
        self._changed_at = {statement: at for statement, at in self._changed_at.items() if at > brief}
        for statement, at in list(self._doubted_at.items()):
            if self._answers - at >= STEADY_ANSWERS:
                self._doubt[statement] -= 1
                self._doubted_at[statement] = self._answers
                if not self._doubt[statement]:
                    del self._doubt[statement], self._doubted_at[statement]

    def _differences(self, content: Content) -> Iterator[tuple[_Difference, Number]]:
        for kind in dict.fromkeys(thing.kind for thing in (*self._things, *content.things)):
            gone, new = _unmatched(_of_kind(self._things, kind), _of_kind(content.things, kind))
            yield from (((thing, False), number) for thing, number in gone.items())
            yield from (((thing, True), number) for thing, number in new.items())
        for relation in content.relations:
            known = self._relations.get(_pair(relation))
            if known == relation:
                continue
            yield (relation, True), 1
            # A relation that is not mentioned may still hold; another one for the same things replaces it.
            if known is not None:
                yield (known, False), 1

    def _add(self, statement: Statement, number: Number) -> None:
        if isinstance(statement, Relation):
            self._relations[_pair(statement)] = statement
        else:
            before = self._things.get(statement, 0)
            self._things[statement] = None if before is None or number is None else before + number

    def _remove(self, statement: Statement, number: Number) -> None:
        if isinstance(statement, Relation):
            self._relations.pop(_pair(statement), None)  # it may be gone with one of its things
            return
        before = self._things.pop(statement)
        if before is not None and number is not None and before > number:
            self._things[statement] = before - number
        else:
            self._relations = {pair: relation for pair, relation in self._relations.items() if statement not in pair}


def _pair(relation: Relation) -> frozenset[Thing]:
    return frozenset((relation.subject, relation.object))


def _of_kind(things: Mapping[Thing, Number], kind: str) -> _Numbers:
    return {thing: number for thing, number in things.items() if thing.kind == kind}


def _unmatched(before: _Numbers, now: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Return the things of one kind that have no counterpart. A thing without a colour matches one of any colour."""
    alike = [(old, new) for old in before for new in now if _is_subset(old, new) or _is_subset(new, old)]
    for old, new in sorted(alike, key=lambda pair: pair[0] != pair[1]):
        before[old], now[new] = _subtract(before[old], now[new])
    return _left(before), _left(now)


def _is_subset(one: Thing, other: Thing) -> bool:
    return set(one.colours) <= set(other.colours)


def _left(things: _Numbers) -> _Numbers:
    return {thing: number for thing, number in things.items() if number != 0}


def _subtract(one: Number, other: Number) -> tuple[Number, Number]:
    """Return both numbers without what they have in common; `several` is the same as any number but 0 and 1."""
    if one is not None and other is not None:
        return one - min(one, other), other - min(one, other)
    return (one, other) if one in (0, 1) or other in (0, 1) else (0, 0)


def _smaller(one: Number, other: Number) -> Number:
    return one if other is None else other if one is None else min(one, other)
