"""The stdout sink, on a real pipe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from streamer.events.build import status_event
from streamer.events.schema import encode
from streamer.events.sinks import Stdout
from tests.support.sinks import entries, opened


def test_prints_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(Stdout(), tmp_path) as sink:
        sink.write(entries(1, 2))

    assert [json.loads(line)["sequence"][-1] for line in capfd.readouterr().out.splitlines()] == ["1", "2"]


def test_stops_the_agent_after_max_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ends: list[bool] = []
    status = (1, encode(status_event("home", "gate", "up")))
    with opened(Stdout(), tmp_path, max_results=2, stop_agent=lambda: ends.append(True)) as sink:
        sink.write([status, *entries(2, 9)])
        sink.write(entries(10, 11))

    assert ends == [True]
    assert len(capfd.readouterr().out.splitlines()) == 3


def test_stops_the_agent_when_its_reader_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with opened(Stdout(), tmp_path, stop_agent=lambda: ends.append(True)) as sink:
            os.close(reader)
            sink.write(entries(1, 2))
            sink.write(entries(3, 3))

    assert ends == [True]
