"""Read and replace small files of the agent.

Readers, a crash or a power loss see the old content or the new content, never a mixture. Another program may have put a
pipe, a link or gigabytes in the place of a file: that is an OSError here.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 64 << 20
"""Largest file that is read."""
TEMPORARY = ".new"
"""Last part of the name of a file that is not complete."""


def read(path: Path) -> bytes:
    """Return the content of a regular file. Raises OSError for anything else; never blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_BYTES >> 20} MiB")
        return file.read(MAX_BYTES)


def write(path: Path, text: str, sync: bool = True) -> None:
    """Replace `path` with `text` (UTF-8), as `write_bytes` does. Raises OSError."""
    write_bytes(path, text.encode(), sync)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Replace `path` with `content` and return once it is on the disk. Raises OSError.

    The content is written to a temporary file in the same folder, synced, and renamed; then the folder is synced.
    Without `sync` it outlives the process but not a power loss, in a tenth of the time on a tmpfs.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.unlink(missing_ok=True)  # of a killed process, or a link that would be followed
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()  # a half-written file needs space on a disk that is full
        raise
    if sync:
        sync_to_disk(path.parent)


def create(path: Path, text: str) -> bool:
    """Create a file that only its owner can read, whole or not at all. Return False if there is one. Raises OSError.

    Of several processes that create the same file, one gets True.
    """
    temporary = path.with_name(f"{path.name}.{threading.get_native_id()}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_to_disk(path.parent)
    return True


def sync_to_disk(path: Path) -> None:
    """Return once a file's content, or a folder's entries, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
