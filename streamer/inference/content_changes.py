"""Tasks with `changes`: decides which of their answers are sent, and reports what has appeared and disappeared.

What was sent last is kept in memory over lost connections, and read back from the task's newest event when a process
serves a stream for the first time. Between changes the task reports `unchanged` once in `REPORT_S`, with the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from streamer.config.model import find_pipeline
from streamer.core.errors import WireError
from streamer.events.schema import EventChanges, EventContent, EventStatement, ResultEvent, decode
from streamer.inference.content_memory import ContentMemory, Number, Statement
from streamer.inference.triggers import UNCHANGED_S
from streamer.types import Content, Frame, Relation, Result, Task, Thing

NEWEST_EVENTS = 100
"""Events of a task that are searched for its content, the newest first: those without an answer have none."""
SEARCH_S = 1.0
"""Longest search, for which the other streams wait."""

TaskId = tuple[str, str]
"""Stream and task name."""


@dataclass(slots=True)
class Sent:
    """The content that a task has sent."""

    memory: ContentMemory
    at: float
    """Unix second of the frame whose answer was sent last."""
    epoch: int = 0
    reported: float = 0.0
    """Time of the frame of the newest event, in the connection `epoch`."""


@dataclass(frozen=True, slots=True)
class ContentChanges:
    """The tasks with `changes` of an inference process. Not thread-safe."""

    restore: Callable[[str, Task], Sent | None]
    """Returns what an earlier process has sent last for a task of a stream."""
    _sent: dict[TaskId, Sent] = field(default_factory=dict)
    _unconfirmed: set[TaskId] = field(default_factory=set)

    def check(self, result: Result) -> tuple[Result | None, EventChanges | None]:
        """Return the result to publish and the changes for its event; no result if the job gets no event.

        An answer without confirmed changes has the outcome `unchanged`.
        """
        due, frame = result.job.due, result.job.frame
        if not getattr(due.task, "changes", False) or result.outcome not in ("ok", "empty", "unchanged"):
            return result, None
        key = due.stream, due.task.name
        sent = self._sent.get(key) or self.restore(due.stream, due.task)
        if sent is None and result.outcome == "unchanged":
            return result, None
        found = NO_CHANGES
        if sent is None:
            sent = Sent(ContentMemory(_content_of(result)), frame.captured_at)
        elif result.outcome != "unchanged":
            found = sent.memory.update(_content_of(result))
            if sent.memory.is_pending:
                self._unconfirmed.add(key)
            if not any(found):
                is_due = sent.epoch != frame.epoch or _time(frame) - sent.reported >= UNCHANGED_S
                ...
        self._sent[key] = sent
def sent_by_ledger(path: Path) -> Callable[[str, Task], Sent | None]:
    """Return the function that reads from the ledger what was sent last. An unreadable ledger has nothing."""

    def restore(stream: str, task: Task) -> Sent | None:
        from streamer.events.ledger.query import Filter, LedgerQuery

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
    """Return what an event says was sent last; None if it has no content or the task was another one."""
    data, zone = event.data, None if task.zone is None else task.zone.name
    if data.content is None or (data.task, data.zone) != (task.task, zone):
        return None
    at = datetime.fromisoformat(data.since or event.time).timestamp()
    return Sent(ContentMemory(_content(data.content.statements)), at)


def _event_changes(memory: ContentMemory, found: Changes = NO_CHANGES) -> EventChanges:
    content = memory.content
    statements: dict[Statement, Number] = {**content.things, **dict.fromkeys(content.relations, 1)}
    return EventChanges(
        content=_statements(statements),
        appeared=_statements(found.appeared),
        disappeared=_statements(found.disappeared),
    )


def _statements(numbers: Mapping[Statement, Number]) -> tuple[EventStatement, ...]:
    return tuple(
        EventStatement(what=_words(statement.subject), number=1, relation=statement.relation, to=_words(statement.object))
        if isinstance(statement, Relation)
        else EventStatement(what=_words(statement), number=number)
        for statement, number in numbers.items()
    )


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
