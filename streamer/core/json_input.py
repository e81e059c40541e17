"""Reads JSON from outside, checked; errors name the file and the place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from streamer.core.errors import ConfigError
from streamer.core.settings import in_words

T = TypeVar("T")

MAX_LINE = 4 << 20
"""Longest line in bytes. An answer of 4,096 tokens has about 40 kB, with its scores 400 kB."""


def parse_json(where: str, adapter: TypeAdapter[T], content: bytes, whole: str = "file") -> T:
    """Return the checked content of a JSON text. Raises ConfigError with the place of the first fault.

    `whole`: the place of a fault of the whole text.
    """
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise ConfigError(f"{where}: {place or whole}: {in_words(first)}") from None


def read_json_lines(path: Path, adapter: TypeAdapter[T]) -> Iterator[tuple[str, T]]:
    """Yield file and line as text, and the checked content, of each line that is not empty. Raises ConfigError."""
    if path.exists() and not path.is_file():  # opening a named pipe would block
        raise ConfigError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                where = f"{path}:{number}"
                if len(line) > MAX_LINE:
                    raise ConfigError(f"{where}: longer than {MAX_LINE} bytes")
                if line.strip():
                    yield where, parse_json(where, adapter, line, "line")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
