"""Completes the environment of a container: a user name and a temporary folder, for which libraries ask the system."""

from __future__ import annotations

import getpass
import os
import tempfile

from streamer.core.paths import memory_folder


def complete_environment() -> None:
    """Set a user name for a user without one, and a temporary folder where none can be written. Children inherit it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # no entry in /etc/passwd, as in `docker run --user 1234`
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # the root is read-only
        if folder := memory_folder():
            os.environ["TMPDIR"] = tempfile.tempdir = folder
