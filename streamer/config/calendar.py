"""Times of day: time zones, windows (`mon-fri 07:00-18:00`) and cron lines. Pure; clocks are passed in.

A window is open whenever the local clock shows one of its minutes: when a clock is set back, some minutes occur twice.
A cron line runs as in Debian's cron: a time that is skipped in spring runs at the moment of the skip, a time that
occurs twice in autumn runs once.
"""

from __future__ import annotations

import difflib
import io
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator

from streamer.core import atomic_file

DAY, WEEK = 24 * 60, 7 * 24 * 60
_UTC = ZoneInfo("UTC")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:([a-z,-]+)\s+)?(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)")
_WINDOW_ERROR = "must be a window such as 22:00-06:00 or mon-fri 07:00-18:00"
_DEFAULT_RULE = ",M3.2.0,M11.1.0"
"""Rule of summer time that the C library takes where `TZ` gives none."""
_MAX_DAYS = 400
"""Number of runs, one per day, that are examined to find the weekdays of a cron line."""


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Hours of the week in which a task may run."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Start and end in minutes from Monday 00:00 local time; an end may lie in the next week."""
    zone: ZoneInfo = _UTC

    def is_open(self, unix_time: float) -> bool:
        return _is_open(self, int(unix_time // 60))

    def holds(self, minute: int) -> bool:
        """Return True if a minute of the week, counted from Monday 00:00, is in a window."""
        return any(start <= minute < end or start <= minute + WEEK < end for start, end in self.spans)

    def open_spans(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """Yield start and end (unix seconds) of the open times between `start` and `end`."""
        minutes = range(int(start // 60), math.ceil(end / 60))
        for is_open, run in groupby(minutes, lambda minute: _is_open(self, minute)):
            if is_open:
                open_minutes = list(run)
                yield max(start, open_minutes[0] * 60.0), min(end, open_minutes[-1] * 60.0 + 60.0)


@lru_cache(maxsize=8192)
def _is_open(hours: TimeWindows, minute: int) -> bool:
    local = datetime.fromtimestamp(minute * 60, hours.zone)
    return hours.holds(local.weekday() * DAY + local.hour * 60 + local.minute)


def parse_windows(value: Any) -> TimeWindows:
    """Parse one window or a list of windows, in UTC until a zone is given. Raises ValueError."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(_WINDOW_ERROR)
    return TimeWindows(", ".join(texts), tuple(span for text in texts for span in _spans(text)))


def _spans(text: str) -> list[tuple[int, int]]:
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(_WINDOW_ERROR)
    days, *clock = match.groups()
    hour, minute, last_hour, last_minute = map(int, clock)
    start, end = hour * 60 + minute, last_hour * 60 + last_minute
    if minute > 59 or last_minute > 59 or start >= DAY or end > DAY:
        raise ValueError(f"no such time of day in `{text}`")
    if start == end:
        raise ValueError(f"`{text}` is never open: it ends when it begins")
    end += DAY if end < start else 0
    return [(day * DAY + start, day * DAY + end) for day in _weekdays(days)]


def _weekdays(text: str | None) -> list[int]:
    found: set[int] = set()
    for part in (text or "mon-sun").split(","):
        first, _, last = part.partition("-")
        for word in (first, last or first):
            if word not in _DAYS:
                raise ValueError(f"unknown weekday `{word}` (known: {', '.join(_DAYS)})")
        start = _DAYS.index(first)
        found.update((start + step) % 7 for step in range((_DAYS.index(last or first) - start) % 7 + 1))
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields: minute, hour, day of the month, month, weekday."""

    text: str
    zone: ZoneInfo = _UTC

    def after(self, unix_time: float) -> float:
        """Return the first run after `unix_time`, or infinity if there is none within 50 years."""
        start = datetime.fromtimestamp(unix_time // 1, self.zone)
        # For the hour that occurs twice, cronsim starts with the first pass, which may be over.
        return next((time for run in CronSim(self.text, start) if (time := run.timestamp()) > unix_time), float("inf"))

    def ever_within(self, hours: TimeWindows | None) -> bool:
        """Return True if the line ever runs within the hours, or at all if there are none."""
        line = CronSim(self.text, datetime(2024, 1, 1))
        days = CronSim(" ".join(["0", "0", *self.text.split()[2:]]), datetime(2024, 1, 1))
        weekdays = {day.weekday() for day in islice(days, _MAX_DAYS)}
        times = [hour * 60 + minute for hour in line.hours for minute in line.minutes]
        return any(hours is None or hours.holds(day * DAY + time) for day in weekdays for time in times)


def parse_cron(value: Any) -> Cron:
    """Parse a cron line, in UTC until a zone is given. Raises ValueError."""
    if not isinstance(value, str) or len(value.split()) != 5:
        raise ValueError("must be a cron line: minute hour day month weekday, such as `0 7 * * mon-fri`")
    try:
        CronSim(value, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(_cron_error(value, str(error))) from None
    return Cron(value)


def _cron_error(text: str, error: str) -> str:
    minute, hour, day, _, weekday = text.split()
    try:
        CronSim(f"{minute} {hour} {day} * {weekday}", datetime.now(UTC))
    except CronSimError:
        return f"{error[:1].lower()}{error[1:]} in the cron line `{text}`"
    return f"`{text}` can never run: no such day in that month"


def parse_zone(value: Any) -> ZoneInfo:
    """Return the zone with an IANA name. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be the name of a time zone, such as Europe/Berlin")
    if value not in _zone_names():
        close = difflib.get_close_matches(value, _zone_names(), n=1)
        meant = f" (did you mean `{close[0]}`?)" if close else " (such as Europe/Berlin or UTC)"
        raise ValueError(f"unknown time zone `{value}`{meant}")
    return ZoneInfo(value)


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def local_zone() -> ZoneInfo:
    """Return the zone of this computer: `TZ`, else /etc/localtime, else UTC. As in the C library, a bad `TZ` is UTC."""
    if (text := os.environ.get("TZ")) is not None:
        return zone_of_variable(text) or _UTC
    return _zone_of_file(Path("/etc/localtime"), "localtime") or _UTC


def zone_of_variable(text: str) -> ZoneInfo | None:
    """Return the zone of a value of `TZ`, or None if the C library does not understand it either.

    A name or the path of a zone file, also after a colon, or a POSIX rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.
    """
    text = text.removeprefix(":")
    if not text:
        return _UTC
    if text in _zone_names():
        return ZoneInfo(text)
    found = _zone_of_file(Path("/usr/share/zoneinfo", text), text)
    return found or _zone_of_rule(text) or _zone_of_rule(text + _DEFAULT_RULE)


def _zone_of_file(path: Path, key: str) -> ZoneInfo | None:
    try:
        name = str(path.resolve(strict=True)).partition("zoneinfo/")[2]
        if name in _zone_names():
            return ZoneInfo(name)
        return ZoneInfo.from_file(io.BytesIO(atomic_file.read(path.resolve())), key=key)
    except (OSError, ValueError):
        return None


def _zone_of_rule(rule: str) -> ZoneInfo | None:
    """Return the zone of a POSIX rule, by way of a zone file without transitions that ends in the rule."""
    header = struct.pack(">5s15x6l", b"TZif2", 0, 0, 0, 0, 1, 4)
    block = header + struct.pack(">lBB4s", 0, 0, 0, b"UTC\0")
    try:
        content = block + block + f"\n{rule}\n".encode("ascii")
        return ZoneInfo.from_file(io.BytesIO(content), key=rule)
    except ValueError:
        return None


TimeWindowsField = Annotated[TimeWindows, BeforeValidator(parse_windows, json_schema_input_type=str | list[str])]
CronField = Annotated[Cron, BeforeValidator(parse_cron, json_schema_input_type=str)]
ZoneName = Annotated[ZoneInfo, BeforeValidator(parse_zone, json_schema_input_type=str)]
