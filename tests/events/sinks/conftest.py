"""Fixtures of the sinks with a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.bus.event_channel import EventClient
from tests.support.sinks import RecordedProgress


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EventClient]:
    (tmp_path / "run").mkdir()
    with EventClient(tmp_path / "run", "infer") as client:
        yield client


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()
