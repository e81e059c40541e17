"""Damaged files that ended capture once, found by `make chaos` (`fuzzing`). Keep each further one in `cases/`."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import pytest

from streamer.capture.sources import File
from streamer.core.errors import ConfigError, SourceEnded, SourceLost

CASES = sorted((Path(__file__).parent / "cases").iterdir())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_damaged_file_ends_without_internal_error(path: Path) -> None:
    with suppress(ConfigError, SourceEnded, SourceLost), closing(File(path=path).open()) as source:
        assert all(picture is None or picture.width > 0 for picture in source)


def test_damage_at_each_connection_is_logged_rarely(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(32):
        with suppress(ConfigError, SourceEnded, SourceLost), closing(File(path=CASES[0]).open()) as source:
            list(source)
    lines = [record for record in caplog.records if "cannot be decoded" in record.getMessage()]
    assert len(lines) <= 8


def test_there_are_cases() -> None:
    assert CASES
