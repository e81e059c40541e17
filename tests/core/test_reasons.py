"""Reasons: our own words, those of the system, or an id that finds the stack in the log."""

from __future__ import annotations

import logging
import re

import apsw
import pytest

from streamer.core.errors import SinkError
from streamer.core.reasons import reason_of


def error_of(value: object) -> Exception:
    """Return an error with a traceback, always of the same line."""
    try:
        raise KeyError(value)
    except KeyError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SinkError("the broker is away"), "the broker is away"),
        (FileNotFoundError(2, "No such file or directory", "/secret/path"), "No such file or directory"),
        (MemoryError(), "not enough memory"),
        (apsw.FullError("database or disk is full"), "the disk is full"),
        (apsw.CorruptError("database disk image is malformed"), "the file is damaged"),
        (apsw.IOError("disk I/O error"), "the disk fails"),
    ],
)
def test_known_errors_are_said_in_words(error: Exception, reason: str) -> None:
    assert reason_of(error, "sink a") == reason


def test_unknown_error_has_an_id_that_finds_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    reasons = {reason_of(error_of(number), "sink a") for number in range(9)}
    (reason,) = reasons
    match = re.fullmatch(r"internal error ([0-9a-f]{6}): the log has the details", reason)
    assert match is not None
    messages = [record.getMessage() for record in caplog.records]
    first = f"sink a: internal error {match[1]}"
    assert messages == [first, *(f"{first}, {count} times so far" for count in (2, 4, 8))]
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False, False]


def test_other_places_in_the_code_have_other_ids() -> None:
    with pytest.raises(KeyError) as caught:
        raise KeyError("elsewhere")
    assert reason_of(caught.value, "sink a") != reason_of(error_of("here"), "sink a")


def test_without_a_log_the_reason_says_how_to_get_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    reason = reason_of(error_of("x"), "command")
    assert re.fullmatch(r"internal error [0-9a-f]{6}: `streamer --debug \.\.\.` prints its stack", reason)
