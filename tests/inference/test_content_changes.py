"""Tasks with `changes`: which answers are sent, and from what they differ after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.config.model import from_mapping
from streamer.config.task import ScheduledTask
from streamer.events.build import result_event
from streamer.events.ledger import LEDGER_FILE, Ledger, Retention
from streamer.events.result_data import EventChanges
from streamer.events.schema import ResultEvent
from streamer.inference.content_changes import SETTLED_ANSWERS, ContentChanges, sent_by_ledger
from streamer.inference.triggers import UNCHANGED_S
from streamer.types import Answer, DueTask, Frame, Image, Job, Outcome, Result

ONE, TWO = "a red ring", "a red ring and a blue star"
AT = 1764000000.0


def task(**keys: Any) -> ScheduledTask:
    whole = {"task": "caption", "changes": True, **keys}
    stream = {"source": "synthetic", "zones": {"door": [[0, 0], [1, 0], [1, 1]]}, "tasks": [whole]}
    return from_mapping({"streams": {"gate": stream}}).streams["gate"].tasks[0]


CAPTION = task()


def picture_of(text: str) -> Image:
    return np.random.default_rng([*text.encode()]).integers(20, 200, (48, 64, 3), np.uint8)


def result(
    text: str,
    at: float,
    epoch: int = 1,
    outcome: Outcome = "ok",
    task: ScheduledTask = CAPTION,
    picture: Image | None = None,
    **due: Any,
) -> Result:
    """`picture`: another one for each text if None."""
    frame = Frame("gate", epoch, round(at * 10), AT + at, at, at, picture_of(text) if picture is None else picture)
    return Result(Job(DueTask("gate", task, 0.0, **due), frame), outcome, Answer(text=text))


class Camera:
    """Answers once a second; keeps what is sent."""

    def __init__(self, changes: ContentChanges | None = None) -> None:
        self.changes = changes or ContentChanges(lambda stream, task: None)
        self.at = 0.0
        self.events: list[ResultEvent] = []

    def answer(self, *texts: str, epoch: int = 1, **keys: Any) -> list[str]:
        """Return the outcomes that are sent."""
        outcomes: list[str] = []
        for text in texts:
            sent, changes = self.changes.check(result(text, self.at, epoch, **keys))
            self.at += 1.0
            if sent is not None:
                self.events.append(result_event("home", sent, "tiny", None, changes))
                outcomes.append(sent.outcome)
        return outcomes

    @property
    def last(self) -> EventChanges:
        changes = self.events[-1].data.changes
        assert changes is not None
        return changes


def names(statements: Any) -> list[tuple[str, int | None]]:
    return [(one.what, one.number) for one in statements]


def test_only_changes_are_sent() -> None:
    camera = Camera()
    assert camera.answer(ONE) == ["ok"]
    assert names(camera.last.content) == [("red ring", 1)]
    assert (camera.last.appeared, camera.last.disappeared) == ((), ())
    assert camera.answer(ONE, "one red ring", TWO) == []
    assert camera.answer(TWO) == ["ok"]
    assert names(camera.last.appeared) == [("blue star", 1)]
    assert names(camera.last.content) == [("red ring", 1), ("blue star", 1)]
    assert camera.answer(*["a blue star"] * 3) == ["ok"]
    assert (names(camera.last.appeared), names(camera.last.disappeared)) == ([], [("red ring", 1)])


def test_empty_answer_is_a_change_once_confirmed() -> None:
    camera = Camera()
    assert [*camera.answer(ONE), *camera.answer("", outcome="empty")] == ["ok"]
    assert camera.answer("", outcome="empty") == ["empty"]
    assert (names(camera.last.disappeared), camera.last.content) == ([("red ring", 1)], ())


def test_unchanged_is_reported_once_a_minute() -> None:
    camera = Camera()
    outcomes = camera.answer(*[ONE] * (2 * int(UNCHANGED_S) + 1))
    assert outcomes == ["ok", "unchanged", "unchanged"]
    data = camera.events[-1].data
    assert (data.result, data.since) == (None, camera.events[0].time)
    assert names(camera.last.content) == [("red ring", 1)]


def test_reconnected_camera_has_no_second_result() -> None:
    camera = Camera()
    assert camera.answer(ONE) == ["ok"]
    assert camera.answer(ONE, ONE, epoch=2) == ["unchanged"]
    assert camera.answer(TWO, TWO, epoch=3) == ["unchanged", "ok"]


def test_outcomes_without_answer_are_sent_and_change_nothing() -> None:
    camera = Camera()
    camera.answer(ONE, TWO)
    assert camera.answer("", "", outcome="error") == ["error", "error"]
    assert camera.answer("", outcome="stale") == ["stale"]
    assert camera.answer(TWO) == ["ok"]


def test_quiet_time_of_when_keeps_what_was_sent() -> None:
    camera = Camera()
    camera.answer(ONE)
    assert camera.answer("", outcome="unchanged", unchanged_since=AT + 99) == ["unchanged"]
    assert camera.events[-1].data.since == camera.events[0].time
    assert names(camera.last.content) == [("red ring", 1)]


def test_tasks_without_the_key_and_follow_ups_are_sent() -> None:
    camera = Camera()
    assert camera.answer(ONE, ONE, task=task(changes=False)) == ["ok", "ok"]


def test_difference_is_unconfirmed_once() -> None:
    camera = Camera()
    camera.answer(ONE, TWO)
    assert camera.changes.take_unconfirmed() == {("gate", "caption")}
    camera.answer(TWO)
    assert camera.changes.take_unconfirmed() == set()


def test_task_of_another_kind_starts_afresh() -> None:
    camera = Camera()
    camera.answer(ONE)
    assert camera.answer(TWO, task=task(task="detailed_caption", name="caption")) == ["ok"]


def test_what_was_sent_is_read_from_the_ledger(tmp_path: Path) -> None:
    first = Camera()
    first.answer(ONE, TWO, "a red ring above a blue star", "a red ring above a blue star")
    first.answer(*[TWO] * 70)
    first.answer("", outcome="error")
    with Ledger(tmp_path / LEDGER_FILE, "home", Retention()) as ledger:
        ledger.commit(first.events)
    restore = sent_by_ledger(tmp_path / LEDGER_FILE)
    second = Camera(ContentChanges(restore))
    assert second.answer(TWO, "a red ring above a blue star") == ["unchanged"]
    assert second.last == first.events[-2].data.changes
    assert second.events[-1].data.since == first.events[2].time
    assert restore("gate", replace(CAPTION, name="other")) is None
    assert restore("gate", task(zone="door")) is None
    assert restore("yard", CAPTION) is None


@pytest.mark.parametrize("content", [None, b"no ledger"])
def test_missing_or_broken_ledger_has_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / LEDGER_FILE
    if content is not None:
        path.write_bytes(content)
    assert sent_by_ledger(path)("gate", CAPTION) is None


def test_other_words_about_the_same_picture_are_no_change() -> None:
    camera, picture = Camera(), picture_of("street")
    assert camera.answer(ONE, *[TWO] * 5, ONE, *[TWO] * 5, picture=picture) == ["ok"]
    assert camera.answer(TWO, TWO) == ["ok"]
    assert names(camera.last.appeared) == [("blue star", 1)]


def test_picture_of_a_change_is_the_next_one_compared() -> None:
    camera = Camera()
    camera.answer(ONE)
    assert camera.answer(TWO, TWO, ONE, ONE, picture=picture_of("star")) == ["ok"]
    assert camera.answer(ONE, ONE) == ["ok"]


def test_picture_is_replaced_after_settled_answers() -> None:
    camera, moved = Camera(), picture_of("chair has moved")
    camera.answer(ONE)
    assert camera.answer(*[ONE] * SETTLED_ANSWERS, *[TWO] * 3, picture=moved) == []
    assert camera.answer(*[TWO] * 2) == ["ok"]


def test_streams_of_other_processes_are_forgotten() -> None:
    camera = Camera()
    camera.answer(ONE)
    camera.changes.keep({"gate", "yard"})
    assert camera.answer(ONE) == []
    camera.changes.keep({"yard"})
    assert camera.answer(ONE) == ["ok"]
