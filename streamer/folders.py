"""Where a running agent keeps its sockets and buffers, and what must outlive it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.errors import ConfigError

LONGEST_SOCKET_PATH = 107
"""Bytes, a limit of Linux."""


@dataclass(frozen=True, slots=True)
class Folders:
    runtime: Path
    """Sockets and frame buffers, mode 0700, on a tmpfs where there is one."""
    state: Path
    """The ledger."""

    @classmethod
    @contextlib.contextmanager
    def take(cls, agent: str, sockets: Iterable[str], keep_state: bool) -> Iterator[Folders]:
        """Make the folders and hold them for this process alone. Raises ConfigError when that cannot be.

        `sockets`: names of files that will be made in the runtime folder, whose paths must not be too long.

        The runtime folder is $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/streamer/<agent>, else a temporary one; the
        state folder $STATE_DIRECTORY, else $XDG_STATE_HOME/streamer/<agent>, else in ~/.local/state. Without
        `keep_state` both are temporary.
        """
        with contextlib.ExitStack() as stack:
            runtime = _runtime(agent) if keep_state else None
            if runtime is None:
                temporary = tempfile.mkdtemp(prefix="streamer-", dir=_memory())
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                runtime = Path(temporary)
            state = _state(agent) if keep_state else runtime / "state"
            for folder in (runtime, state):
                _make(folder)
            _lock(stack, state, agent)
            shutil.rmtree(runtime / "buffers", ignore_errors=True)
            longest = max((f"{runtime}/{name}" for name in sockets), key=len)
            if len(longest.encode()) > LONGEST_SOCKET_PATH:
                raise ConfigError(
                    f"the socket path {longest} is longer than {LONGEST_SOCKET_PATH} bytes: "
                    "give the agent, the stream or the output a shorter name"
                )
            yield cls(runtime, state)


def _runtime(agent: str) -> Path | None:
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given)
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "streamer" / agent
    return None


def _state(agent: str) -> Path:
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "streamer" / agent


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from None


def _lock(stack: contextlib.ExitStack, state: Path, agent: str) -> None:
    try:
        lock = stack.enter_context((state / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"agent {agent} is already running (it holds {state / 'lock'})") from None
    except OSError as error:
        raise ConfigError(f"cannot write in {state}: {error.strerror}") from None
