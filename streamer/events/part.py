"""The base of all models in events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from streamer.core.attribute_docs import Documented

LAST_YEAR = 9000
"""Last year of an event's time: durations of 100 years can be added to it."""


class Part(Documented):
    # Unknown keys are ignored: a reader must accept events of a newer agent.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


def unix_time(text: str) -> float:
    """Return the unix second of an event's time. Raises ValueError or OverflowError if it is none."""
    parsed = datetime.fromisoformat(text)
    if parsed.utcoffset() is None:
        raise ValueError("its time has no offset from UTC")
    # Times near the first and the last year cannot be written in every time zone.
    if not 1970 <= parsed.year <= LAST_YEAR:
        raise ValueError(f"its year is not between 1970 and {LAST_YEAR}")
    return parsed.timestamp()


def _checked_time(text: str) -> str:
    try:
        unix_time(text)
    except OverflowError:
        raise ValueError("is out of range") from None
    return text


UnixSecond = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""A unix second that can be written as a `Time`."""
Time = Annotated[str, AfterValidator(_checked_time)]
"""A time that `unix_time` can read."""
