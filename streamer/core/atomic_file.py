"""Replace a file so that readers, a crash or a power loss see the old content or the new content, never a mixture."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, text: str, sync: bool = True) -> None:
    """Replace `path` with `text` (UTF-8) and return once it is on the disk. Raises OSError.

    The content is written to a temporary file in the same folder, synced, and renamed; then the folder is synced.
    Without `sync` it outlives the process but not a power loss, in a tenth of the time on a tmpfs.
    """
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if sync:
        sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Return once a file's content, or a folder's entries, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
