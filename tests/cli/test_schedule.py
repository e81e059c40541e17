"""`streamer schedule` prints the runs that the schedule would do."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.cli.schedule import Plan, plan, print_schedule
from streamer.config.model import from_mapping
from streamer.config.task import ScheduledTask
from streamer.core.errors import ConfigError
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import Now
from tests.support.tasks import frame

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 6, 1, tzinfo=BERLIN).timestamp()
DAY_S = 86400.0


def task_of(**keys: object) -> ScheduledTask:
    stream = {"source": keys.pop("source", "synthetic"), "tasks": [{"task": "ocr", **keys}]}
    return from_mapping({"timezone": "Europe/Berlin", "streams": {"gate": stream}}).streams["gate"].tasks[0]


def plan_of(days: float = 1, start: float = MONDAY, **keys: object) -> Plan:
    return plan(task_of(**keys), "live", start, start + days * DAY_S, BERLIN)


def test_few_runs_are_listed_and_many_are_counted() -> None:
    assert plan_of(at="0 7,19 * * mon-fri") == Plan("2", "Mon 01 Jun 07:00, 19:00")
    assert plan_of(2, at="30 2 * * *") == Plan("2", "Mon 01 Jun 02:30; Tue 02 Jun 02:30")
    assert plan_of(at="*/5 * * * *") == Plan("288", "at */5 * * * *: first Mon 01 Jun 00:00, last Mon 01 Jun 23:55")
    assert plan_of(every="1s") == Plan("86,400", "every 1 s")
    assert plan_of(every="8h") == Plan("3", "Mon 01 Jun 00:00, 08:00, 16:00")
    assert plan_of(every_n_frames=50) == Plan("-", "every 50 frames")


def test_runs_stay_within_time_windows() -> None:
    night = plan_of(every="5m", between="22:00-06:00")
    spans = "Mon 01 Jun 00:00-06:00; Mon 01 Jun 22:00-00:00"
    assert night == Plan("96", f"every 300 s between 22:00-06:00: {spans}")
    assert plan_of(every="2h", between="mon 07:00-12:00") == Plan("3", "Mon 01 Jun 07:00, 09:00, 11:00")
    assert plan_of(every="2h", between="sun 07:00-12:00").runs == "0"
    assert plan_of(at="0 * * * *", between="07:00-09:00") == Plan("2", "Mon 01 Jun 07:00, 08:00")
    assert plan_of(every_n_frames=9, between="07:00-09:00").when.endswith(": Mon 01 Jun 07:00-09:00")


def test_recording_has_no_run_times() -> None:
    task = task_of(source="synthetic?pace=file", every="2s")
    assert plan(task, "file", MONDAY, MONDAY + DAY_S, BERLIN) == Plan("-", "every 2 s of the recording")


def test_runs_on_days_of_a_clock_change() -> None:
    for month, day, runs in ((3, 29, 23), (10, 25, 25)):
        start = datetime(2026, month, day, tzinfo=BERLIN).timestamp()
        assert plan_of(runs / 24, start, at="15 * * * *").runs == str(runs)
        assert plan_of(runs / 24, start, at="30 2 * * *").runs == "1"


@given(
    every=st.integers(1, 600),
    start=st.integers(0, 7 * 24 * 60),
    between=st.sampled_from([None, "22:00-06:00", "mon-fri 07:00-18:00", ["sat 10:00-12:00", "13:00-14:30"]]),
)
@settings(max_examples=15)
def test_run_count_equals_the_schedule(every: int, start: int, between: str | list[str] | None) -> None:
    keys = {"every": f"{every}m"} if between is None else {"every": f"{every}m", "between": between}
    task, first = task_of(**keys), MONDAY + start * 60
    schedule, runs = Schedule("s", [task], "live", Now(0.0, first)), 0
    for minute in range(24 * 60):
        runs += len(schedule.pop_due(frame(minute), Now(minute * 60.0, first + minute * 60)))
    assert plan(task, "live", first, first + DAY_S, BERLIN).runs == f"{runs:,}"


def test_table_prints_period_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [{"task": "ocr", "every": "1h", "priority": "high"}, {"task": "caption", "at": "0 7 * * *"}]
    streams = {"gate": {"source": "synthetic", "tasks": tasks}}
    config = from_mapping({"timezone": "Europe/Berlin", "streams": streams})
    print_schedule(config, "2026-06-01", "2026-06-02T12:00+00:00")
    head, names, ocr, caption = capsys.readouterr().out.splitlines()
    assert head == "Mon 01 Jun 00:00 to Tue 02 Jun 14:00, time zone Europe/Berlin"
    assert names.split() == ["stream", "task", "priority", "runs", "when"]
    assert re.split(r"  +", ocr.strip()) == ["gate", "ocr", "high", "38", "every 3600 s"]
    assert re.split(r"  +", caption.strip()) == ["gate", "caption", "normal", "2", "Mon 01 Jun 07:00; Tue 02 Jun 07:00"]
    print_schedule(config, None, None)
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("tomorrow", None, "--from: `tomorrow` is not an ISO 8601 time such as 2026-11-23T22:00"),
        ("2026-06-01", "2026-06", "--to: `2026-06` is not an ISO 8601 time"),
        ("2026-06-01", "2026-06-01", "--to: must be later than --from"),
        ("2026-06-01", "2036-06-01", "--to: must be later than --from, by 400 days at most"),
    ],
)
def test_invalid_times_are_config_errors(start: str, end: str | None, message: str) -> None:
    config = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "ocr"}]}}})
    with pytest.raises(ConfigError, match=re.escape(message)):
        print_schedule(config, start, end)
