"""Tasks with `changes`: decides which of their answers are sent, and reports what has appeared and disappeared.

An answer about a picture that is still the same has no changes, whatever its words (`still_picture.py`). What was sent
last is kept in memory over lost connections, and read back from the task's newest event when a process serves a stream
for the first time. Between changes the task reports `unchanged` once in `UNCHANGED_S`, with the content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streamer.config.model import find_pipeline
from streamer.core.content import Content, Relation, Thing
from streamer.core.errors import WireError
from streamer.events.ledger.query import Filter, LedgerQuery
from streamer.events.part import unix_time
from streamer.events.result_data import EventChanges, EventStatement
from streamer.events.schema import ResultEvent, decode
from streamer.inference.content_memory import Changes, ContentMemory, Number
from streamer.inference.still_picture import is_still, small_picture
from streamer.inference.triggers import UNCHANGED_S
from streamer.types import Frame, Image, Result, Task, Zone

NEWEST_EVENTS = 100
"""Events of a task that are searched for its content, the newest first: those without an answer have none."""
SEARCH_S = 1.0
"""Longest search, for which the other streams wait."""

SETTLED_ANSWERS = 10
"""Answers in a row without a difference, after which the newest picture is the one that has the sent content: light and
things that no caption names change the picture in time."""

NO_CHANGES = Changes({}, {})

_Key = tuple[str, str, str, Zone | None]
"""Stream, name, kind and zone of a task: with another kind or zone it is another task."""


@dataclass(slots=True)
class Sent:
    """The content that a task has sent."""

    memory: ContentMemory
    at: float
    """Unix second of the frame whose answer was sent last."""
    epoch: int = 0
    reported: float = 0.0
    """Time of the frame of the newest event, in the connection `epoch`."""
    picture: Image | None = None
    """Small picture that has the sent content; None if none is known yet."""
    settled: int = 0
    """Newest answers in a row without a difference."""

    def update(self, result: Result) -> Changes:
        """Take the next answer; return the differences that are confirmed by it."""
        picture = small_picture(result.job.frame, result.job.due.task.zone)
        same = self.picture is not None and is_still(self.picture, picture)
        found = self.memory.update(self.memory.content if same else _content_of(result))
        self.settled = 0 if self.memory.is_pending else self.settled + 1
        if not self.memory.is_pending and (any(found) or self.settled >= SETTLED_ANSWERS):
            self.picture, self.settled = picture, 0
        return found


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """The tasks with `changes` of an inference process. Not thread-safe."""

    restore: Callable[[str, Task], Sent | None]
    """Returns what an earlier process has sent last for a task of a stream."""
    _sent: dict[_Key, Sent] = field(default_factory=dict)
    _unconfirmed: set[tuple[str, str]] = field(default_factory=set)
    """Stream and task name."""

    def check(self, result: Result) -> tuple[Result | None, EventChanges | None]:
        """Return the result to publish and the changes for its event; no result if the job gets no event.

        An answer without confirmed changes has the outcome `unchanged`.
        """
        due, frame = result.job.due, result.job.frame
        if not getattr(due.task, "changes", False) or result.outcome not in ("ok", "empty", "unchanged"):
            return result, None
        key = due.stream, due.task.name, due.task.task, due.task.zone
        sent, is_new, found = self._sent.get(key) or self.restore(due.stream, due.task), False, NO_CHANGES
        if result.outcome == "unchanged":  # a task with `when` that had nothing to run on
            if sent is None:
                return result, None
        elif sent is None:
            picture = small_picture(frame, due.task.zone)
            sent, is_new = Sent(ContentMemory(_content_of(result)), frame.captured_at, picture=picture), True
        else:
            found = sent.update(result)
            if sent.memory.is_pending:
                self._unconfirmed.add(key[:2])
        self._sent[key] = sent
        if is_new or any(found):
            sent.at = frame.captured_at
        elif result.outcome != "unchanged" and sent.epoch == frame.epoch and _time(frame) < sent.reported + UNCHANGED_S:
            return None, None
        else:
            job = replace(result.job, due=replace(due, unchanged_since=sent.at))
            result = replace(result, job=job, outcome="unchanged")
        sent.epoch, sent.reported = frame.epoch, _time(frame)
        return result, _event_changes(sent.memory, found)

    def take_unconfirmed(self) -> set[tuple[str, str]]:
        """Return stream and name of the tasks with a difference that the next answer may confirm, each once."""
        taken = set(self._unconfirmed)
        self._unconfirmed.clear()
        return taken

    def keep(self, streams: Collection[str]) -> None:
        """Forget all other streams: another process serves them."""
        for key in [key for key in self._sent if key[0] not in streams]:
            del self._sent[key]


def _content_of(result: Result) -> Content:
    """Return the content of an answer."""
    describe = find_pipeline().tasks()[result.job.due.task.task].content
    assert describe is not None, "checked with the config"
    content: Content = describe(result.answer)
    return content


def sent_by_ledger(path: Path) -> Callable[[str, Task], Sent | None]:
    """Return the function that reads from the ledger what was sent last. An unreadable ledger has nothing."""

    def restore(stream: str, task: Task) -> Sent | None:
        query = LedgerQuery(path)
        try:
            page = query.newest(NEWEST_EVENTS, Filter(stream, task.name), SEARCH_S)
        finally:
            query.close()
        for entry in reversed(page.entries):
            try:
                event = decode(entry.body)
            except WireError:
                continue
            if isinstance(event, ResultEvent) and (found := _sent(event, task)) is not None:
                return found
        return None

    return restore


def _sent(event: ResultEvent, task: Task) -> Sent | None:
    """Return what an event says was sent last; None if it does not, or if the task was another one."""
    data, zone = event.data, None if task.zone is None else task.zone.name
    if data.changes is None or (data.task, data.zone) != (task.task, zone):
        return None
    try:
        at = unix_time(data.since or event.time)
    except (ValueError, OverflowError):
        return None
    return Sent(ContentMemory(_content(data.changes.content)), at)


def _event_changes(memory: ContentMemory, found: Changes) -> EventChanges:
    content = memory.content
    return EventChanges(
        content=(*_statements(content.things), *map(_relation, content.relations)),
        appeared=_statements(found.appeared),
        disappeared=_statements(found.disappeared),
    )


def _statements(numbers: Mapping[Any, Number]) -> tuple[EventStatement, ...]:
    """`numbers`: number by statement."""
    return tuple(
        _relation(one) if isinstance(one, Relation) else EventStatement(what=_words(one), number=number)
        for one, number in numbers.items()
    )


def _relation(relation: Relation) -> EventStatement:
    subject, to = _words(relation.subject), _words(relation.object)
    return EventStatement(what=subject, number=1, relation=relation.relation, to=to)


def _content(statements: Iterable[EventStatement]) -> Content:
    """Return the content that these statements were made of."""
    things: dict[Thing, Number] = {}
    relations = []
    for one in statements:
        if one.relation is not None and one.to is not None:
            relations.append(Relation(_thing(one.what), one.relation, _thing(one.to)))
        else:
            things[_thing(one.what)] = one.number
    return Content(things, tuple(relations))


def _words(thing: Thing) -> str:
    return " ".join((*thing.colours, thing.kind))


def _thing(words: str) -> Thing:
    *colours, kind = words.split() or [""]
    return Thing(kind, tuple(colours))


def _time(frame: Frame) -> float:
    return frame.captured_at if frame.pts is None else frame.pts
