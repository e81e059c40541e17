"""A camera that connects, gives a frame and is lost, again and again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest

from streamer.capture.interfaces import Picture, Source
from streamer.capture.sources.synthetic import Synthetic
from streamer.core import backoff
from streamer.core.errors import SourceLost
from streamer.core.settings import Settings
from streamer.types import Pace
from tests.support.agents import until
from tests.support.capturing import CaptureThread


class FlappingSource(Settings):
    """A source whose connections are lost after two frames."""

    pace: Pace = "live"

    def open(self, read_limit: float = 15.0) -> Source:
        return _Flapping()


class _Flapping:
    note = None
    opened: ClassVar[list[int]] = []

    def __iter__(self) -> Iterator[Picture | None]:
        self.opened.append(1)
        yield from islice(Synthetic(fps=50, size="64x48").open(), 2)
        raise SourceLost("connection closed")

    def set_interval(self, interval: float) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


def test_flapping_camera_is_reported_a_few_times_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(backoff, "MAX_SHORT_DELAY_S", 0.05)
    with CaptureThread(tmp_path, FlappingSource()) as capture:
        until(lambda: capture.statuses.receive() is None or len(_Flapping.opened) >= 25, 30, "25 connections")
        states = [status["state"] for status in capture.statuses.receive()]
        assert states == ["up", "down"] * 4
    assert len([line for line in caplog.messages if line.startswith("stream cam")]) <= 10
