"""Tasks that kill the inference process: found within two deaths, blocked, and every job gets an outcome."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from streamer.bus.stream_state import NO_ROWS
from streamer.config.model import from_mapping
from streamer.inference.in_flight import InFlight, id_of
from streamer.inference.quarantine import MAX_PAUSE_S, PAUSE_S, Quarantine, Suspect
from streamer.types import DueTask, Frame, FrameId, FrameOutcome, Job, Task
from tests.support.sample_events import frame
from tests.support.tasks import PARAMS


def live(name: str) -> Suspect:
    return Suspect(name, "caption", None)


def deaths_until_found(guilty: set[Suspect], batch: list[Suspect]) -> tuple[int, list[Suspect]]:
    """Simulate processes that die whenever a guilty suspect runs; the state goes from one to the next as JSON."""
    rows = NO_ROWS
    deaths, found = 0, []
    waiting = list(batch)
    while waiting:
        quarantine = Quarantine(set(), rows)
        waiting = [suspect for suspect in waiting if not quarantine.is_blocked(suspect, 0.0)]
        chosen = [one for one, may in zip(waiting, quarantine.may_run(waiting, []), strict=True) if may]
        if not chosen:
            break
        if guilty & set(chosen):
            deaths += 1
            verdict = quarantine.on_crash(chosen, 0.0)
            found += [verdict.suspect] if verdict else []
        else:
            for suspect in chosen:
                quarantine.on_finished(suspect)
            waiting = [suspect for suspect in waiting if suspect not in chosen]
        rows = json.loads(json.dumps(quarantine.rows()))
    return deaths, found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16])
def test_guilty_task_is_found_after_two_deaths(size: int) -> None:
    batch = [live(str(number)) for number in range(size)]
    for place in range(size):
        deaths, found = deaths_until_found({batch[place]}, batch)
        assert found == [batch[place]]
        assert deaths == 2


def test_two_guilty_tasks_are_found_after_three_deaths() -> None:
    batch = [live(str(number)) for number in range(8)]
    deaths, found = deaths_until_found({batch[1], batch[6]}, batch)
    assert set(found) == {batch[1], batch[6]}
    assert deaths == 3


def test_suspects_that_finish_between_deaths_are_cleared() -> None:
    quarantine, chance = Quarantine(set()), random.Random(1)
    batch = [live(str(number)) for number in range(8)]
    for _ in range(100):
        assert quarantine.on_crash(batch, 0.0) is None
        waiting = chance.sample(batch, 8)
        while waiting:
            chosen = [one for one, may in zip(waiting, quarantine.may_run(waiting, []), strict=True) if may]
            assert chosen
            for suspect in chosen:
                quarantine.on_finished(suspect)
                waiting.remove(suspect)


def test_a_suspect_runs_alone() -> None:
    quarantine = Quarantine(set())
    a, b, c, d, other = (live(name) for name in ("a", "b", "c", "d", "other"))
    quarantine.on_crash([a, b, c, d], 0.0)
    assert quarantine.may_run([other], []) == [True]
    assert quarantine.may_run([other, a, b, c], []) == [False, True, False, False]
    assert quarantine.may_run([other, b], [a]) == [False, False], "until the suspect has finished"
    assert quarantine.may_run([b, other], [other]) == [False, False], "until the other one has finished"


def test_guilty_task_is_paused_guilty_frame_blocked_for_good() -> None:
    quarantine, now = Quarantine({"file"}), 0.0
    for expected in (60.0, 120.0, 240.0):
        quarantine.on_crash([live("a")], now)
        verdict = quarantine.on_crash([live("a")], now)
        assert verdict is not None
        assert verdict.pause == expected
        assert quarantine.is_blocked(live("a"), now + expected - 1)
        now += expected + 1
        assert not quarantine.is_blocked(live("a"), now)
    frames = [Suspect("file", "caption", FrameId(1, seq)) for seq in range(12)]
    pauses = []
    for one in frames:
        quarantine.on_crash([one], now)
        verdict = quarantine.on_crash([one], now)
        assert verdict is not None
        pauses.append(verdict.pause)
    assert pauses[:4] == [None, None, PAUSE_S, 2 * PAUSE_S]
    assert pauses[-1] == MAX_PAUSE_S
    assert quarantine.is_blocked(frames[0], now + 1e9)
    assert not quarantine.is_blocked(Suspect("file", "caption", FrameId(1, 99)), now + 1e9)


def test_lost_jobs_stay_in_journal_until_acked(tmp_path: Path) -> None:
    streams = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}}).streams
    job = Job(DueTask("gate", Task("caption", "caption", PARAMS), 0.0), frame("gate"))
    settled: list[Frame] = []

    def settle(frame: Frame, _: FrameOutcome) -> None:
        settled.append(frame)

    dead = InFlight(tmp_path, streams, settle)
    dead.open_frame(job.frame, [job])
    dead.start([job])
    for _ in range(3):  # killed before emit has acked the events
        in_flight = InFlight(tmp_path, streams, settle)
        in_flight.save()
        assert [(result.outcome, id_of(result.job)) for result in in_flight.lost] == [("dropped", id_of(job))]
    in_flight.add_event(job, "dropped", "event")
    in_flight.on_acked(["event"])
    assert settled == [], "the frame belonged to the dead process"
    in_flight.save()
    assert not InFlight(tmp_path, streams, settle).lost
