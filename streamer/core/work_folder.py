"""A folder for unfinished work, which disappears also when its process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".new-"
"""First part of the names of these folders."""


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in `parent` and delete it at the end, if it is still there. Raises OSError when it cannot be made.

    Those of processes that no longer run are deleted first: the kernel releases a folder's lock when its process ends.
    """
    _remove_leftovers(parent)
    with contextlib.ExitStack() as stack:
        folder = _locked(parent, stack)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        # Another process deletes it at the same time, or it belongs to another user.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            _lock(path, stack)
            shutil.rmtree(path, ignore_errors=True)


def _locked(parent: Path, stack: contextlib.ExitStack) -> Path:
    """Return a new folder that this process has locked until the end of `stack`."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Before it was locked, another process can have taken it for a leftover.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            descriptor = _lock(folder, stack)
            if os.path.samestat(os.stat(folder), os.fstat(descriptor)):
                return folder


def _lock(folder: Path, stack: contextlib.ExitStack) -> int:
    """Lock a folder and return its descriptor. Raises BlockingIOError while another process has locked it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor
