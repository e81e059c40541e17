"""Limits of the operating system, and the environment of a user: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from streamer.core import limits
from streamer.core.errors import ConfigError
try:
    limits.prepare(8)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except ConfigError as error:
    print(error)
"""


def limited(limit: str) -> str:
    """Return what the program prints under a limit of `ulimit`."""
    command = ["bash", "-c", f'ulimit {limit} && exec "$0" -c "$1"', sys.executable, PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_limit_of_open_files_is_raised() -> None:
    assert int(limited("-S -n 64")) > 64


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("-n 64", "the limit is 64 open files, 96 are needed: raise it (ulimit -n 192, LimitNOFILE= of systemd)"),
        ("-v 4000000", "the limit is 4096000000 bytes of virtual memory, 8589934592 are needed: raise it"),
    ],
)
def test_limit_that_is_too_small_names_the_remedy(limit: str, message: str) -> None:
    assert limited(limit).startswith(message)


UNSHARE = ["unshare", "-U", "--map-user=54321", "--map-group=54321"]
has_user_namespaces = subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_user_namespaces, reason="this user cannot take another user id")
def test_user_name_and_temporary_folder_are_always_there() -> None:
    """A container with a read-only root has neither. Libraries of the model ask for both."""
    program = (
        "import os, tempfile\n"
        "tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
        "from streamer.core.user import complete_environment\n"
        "complete_environment(); import getpass; print(getpass.getuser(), tempfile.gettempdir(), os.environ['TMPDIR'])"
    )
    command = [*UNSHARE, sys.executable, "-c", program]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60)
    assert done.stdout == "user-54321 /dev/shm /dev/shm\n", done.stderr


@pytest.mark.skipif(not has_user_namespaces, reason="this user cannot take another user id")
@pytest.mark.parametrize("command", ["check", "run", "events"])
def test_user_without_passwd_entry_and_home_gets_one_line(tmp_path: Path, command: str) -> None:
    config = tmp_path / "home.yaml"
    config.write_text("streams: {gate: {source: synthetic, tasks: [{task: caption}]}}")
    arguments = [command] if command == "events" else [command, str(config)]
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "streamer.cli", *arguments],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if command == "check":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2
        assert done.stderr.startswith("streamer: no home folder: ")
        assert "set $XDG_STATE_HOME" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"PYTHONUTF8": "0", "LC_ALL": "C.ISO8859-1"}])
def test_output_is_utf_8_in_every_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    config = tmp_path / "höhle.yaml"
    config.write_text("streams: {gate: {source: 'höhle-Ω.mp4', tasks: [{task: caption}]}}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "check", str(config)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **locale},
        capture_output=True,
    )
    message = (done.stdout + done.stderr).decode("utf-8")
    assert "no such file: " in message
    assert "Traceback" not in message
    if "PYTHONUTF8" not in locale:  # the name of the file is not UTF-8 for Python then
        assert "höhle-Ω.mp4" in message
