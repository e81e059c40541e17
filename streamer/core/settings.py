"""Base class of all settings, the field types they share, and their errors in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, StringConstraints, ValidationInfo
from pydantic_core import ErrorDetails

from streamer.core.attribute_docs import Documented
from streamer.core.errors import ConfigError
from streamer.types import Region

_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")


MAX_SECONDS = 100 * 365 * 86400.0
"""Longest duration. A longer one would exceed the limits of the system's timers."""


class Settings(Documented):
    """Base class: frozen, unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_WRONG_TYPES = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object with keys",
    "model_type": "must be an object with keys",
    "dataclass_type": "must be an object with keys",
}


def was_checked(info: ValidationInfo) -> bool:
    """Return whether the data was checked when the agent started: a file that it names may be gone since."""
    return bool(info.context and info.context.get("checked"))


def in_words(details: ErrorDetails) -> str:
    """Return what is wrong with a value, without the words of pydantic."""
    match details["type"]:
        case "json_invalid":
            return "is not JSON"
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "unknown key"
        case "value_error":
            return details["msg"].removeprefix("Value error, ")
        case "string_type" if isinstance(details["input"], (int, float)):
            return "must be a text: put it in quotes"
        case kind if kind in _WRONG_TYPES:
            return _WRONG_TYPES[kind]
    words, count = re.subn(r"^[A-Z][a-z]+ should", "must", details["msg"])
    return words if count else "has a value of the wrong kind"


def parse_seconds(value: Any) -> float:
    """Return the seconds of a number or of a text such as `500ms` or `5`. Raises ValueError unless longer than zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a duration such as 500ms, 1s or 5m")
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError("must be a duration such as 500ms, 1s or 5m")
        value = float(match[1]) * _UNITS[match[2]]
    if not value > 0:
        raise ValueError("must be longer than zero")
    if value > MAX_SECONDS:
        raise ValueError("must be shorter than 100 years")
    return float(value)


def variable_hint(path: Path) -> str:
    """Return a note on the first `$NAME` in a path that does not exist, otherwise an empty text."""
    found = re.search(r"\$\{?([A-Za-z_]\w*)", str(path))
    return f" (${found[1]} is not replaced: a config takes environment variables as ${{{found[1]}}})" if found else ""


def option_seconds(option: str, text: str) -> float:
    """Return the seconds of a command's option such as `--every 500ms`. Raises ConfigError, which names the option."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


Seconds = Annotated[float, BeforeValidator(parse_seconds, json_schema_input_type=float | str)]
"""A duration longer than zero: a number of seconds, or text such as `500ms`, `1s`, `5m`, `12h`, `7d`, `5`."""


def split_numbers(text: str) -> list[float]:
    """Return the numbers of a text: separated by commas or spaces, with or without brackets, as numpy prints them.

    Raises ValueError.
    """
    return [float(part) for part in re.split(r"[\s,]+", text.strip(" \t\n()[]")) if part]


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""An id that is safe in topics, file names and URLs."""


def parse_region(value: Any) -> Region:
    """Return the Region of `x0,y0,x1,y1` or of four fractions in a list. Raises ValueError."""
    if isinstance(value, Region):
        return value
    try:
        x0, y0, x1, y1 = split_numbers(value) if isinstance(value, str) else map(float, value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be four numbers x0,y0,x1,y1 between 0 and 1") from None
    if max(x0, y0, x1, y1) > 2:
        raise ValueError("must be fractions of the frame, not pixels: divide x by its width and y by its height")
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError("must be x0,y0,x1,y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return Region(x0, y0, x1, y1)


RegionField = Annotated[
    Region, BeforeValidator(parse_region, json_schema_input_type=str | tuple[float, float, float, float])
]
