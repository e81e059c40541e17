"""Picture files in folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streamer.core.errors import ConfigError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Last parts of the names of pictures, in lower case."""


def find_pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder in the order of their names, no links. Raises ConfigError without a folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
            yield path
