"""Texts of others on a terminal and in the log."""

from __future__ import annotations

import logging
import sys

import pytest

from streamer.core.logs import _TextFormatter
from streamer.core.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red van", "a red van"),
        ("ein Äffchen 🐒 می‌خواهم", "ein Äffchen 🐒 می‌خواهم"),
        ("\x1b[2J\x1b]0;title\a", r"\x1b[2J\x1b]0;title\x07"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_text_stays_one_line_and_steers_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_text_with_line_ends_passes_for_no_log_record() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "down %s", ("x\n12:00:00 ERROR \x1b[31mstreamer: fake",), None)
    first, second = _TextFormatter("capture").format(record).split("\n")
    assert first.endswith("INFO    capture: down x")
    assert second == r"  12:00:00 ERROR \x1b[31mstreamer: fake"


def test_traceback_in_the_log_is_indented() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "crashed", (), sys.exc_info())
    first, *others = _TextFormatter("infer").format(record).split("\n")
    assert first.endswith("ERROR   infer: crashed")
    assert others[0] == "  Traceback (most recent call last):"
    assert others[-1] == "  ValueError: wrong"
