"""Tells whether another user can have written a file, for files that are trusted because this program wrote them."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def foreign(path: Path) -> str | None:
    """Return why another user can have written this file or folder, or None. Raises OSError when there is none.

    Root is trusted. Links, pipes and devices are refused too: what is behind them is not known, and may never end.
    """
    found = os.lstat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return f"{path} is a link or no regular file"
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be changed by other users (mode {stat.S_IMODE(found.st_mode):o})"
    return None
