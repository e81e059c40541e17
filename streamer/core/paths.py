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

from streamer.core.errors import ConfigError

MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket, in bytes; a limit of Linux."""


@dataclass(frozen=True, slots=True)
class AgentPaths:
    runtime: Path
    """Sockets and frame buffers, mode 0700, on a tmpfs where there is one."""
    state: Path
    """The ledger."""

    @classmethod
    @contextlib.contextmanager
    def take(cls, agent: str, sockets: Iterable[str], keep_state: bool) -> Iterator[AgentPaths]:
        """Make the folders and hold them for this process alone. Raises ConfigError when that cannot be.

        `sockets`: names of files that will be made in the runtime folder, whose paths must not be too long.

        The runtime folder is $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/streamer/<agent>, else a temporary one; the
        state folder $STATE_DIRECTORY, else $XDG_STATE_HOME/streamer/<agent>, else in ~/.local/state. Without
        `keep_state` both are temporary.
        """
        with contextlib.ExitStack() as stack:
            runtime = runtime_folder(agent) if keep_state else None
            if runtime is None:
                temporary = tempfile.mkdtemp(prefix="streamer-", dir=memory_folder())
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                runtime = Path(temporary)
            state = state_folder(agent) if keep_state else runtime / "state"
            for folder in (runtime, state):
                _make(folder)
            _lock(stack, state, runtime, agent)
            shutil.rmtree(runtime / "buffers", ignore_errors=True)
            longest = max((f"{runtime}/{name}" for name in sockets), key=len)
            if len(longest.encode()) > MAX_SOCKET_PATH:
                raise ConfigError(
                    f"the socket path {longest} is longer than {MAX_SOCKET_PATH} bytes: "
                    "give the agent, the stream or the output a shorter name"
                )
            yield cls(runtime, state)


def runtime_folder(agent: str) -> Path | None:
    """Where its sockets and frame buffers go; None: into a temporary folder."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given)
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "streamer" / agent
    return None


def state_folder(agent: str) -> Path:
    """Where its ledger is kept."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given)
    return state_home() / agent


def state_home() -> Path:
    """Where the state folders of a user's agents are, and what counts for all of them."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "streamer"


def memory_folder() -> str | None:
    """A folder in memory for all, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from None


def find_running(agent: str | None) -> tuple[str, Path]:
    """Name and runtime folder of the agent that runs here. Raises ConfigError when there is none, or not only one.

    `agent`: its name, or its state folder; without it the only one there is.
    """
    if agent is not None and "/" in agent:
        places = [Path(agent)]
    else:
        places = sorted(state_folder(agent or "any").parent.glob(agent or "*"))
        places += [Path(given)] if (given := os.environ.get("STATE_DIRECTORY")) else []
    found = {place.name: runtime for place in places if (runtime := _held(place / "lock")) is not None}
    if len(found) == 1:
        return found.popitem()
    if found:
        raise ConfigError(f"several agents run here ({', '.join(found)}): say which with --agent")
    raise ConfigError(f"no agent {agent} runs here" if agent else "no agent runs here: start one with `streamer run`")


def _held(lock: Path) -> Path | None:
    """The runtime folder of the agent that holds this lock now."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Path(lock.read_text())
    except OSError:
        pass  # there is none, or it is not ours to see
    return None


def _lock(stack: contextlib.ExitStack, state: Path, runtime: Path, agent: str) -> None:
    """Hold the state folder, and say in its lock file where this agent can be asked."""
    try:
        lock = stack.enter_context((state / "lock").open("a"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(str(runtime.absolute()))
        lock.flush()
    except BlockingIOError:
        raise ConfigError(f"agent {agent} is already running (it holds {state / 'lock'})") from None
    except OSError as error:
        raise ConfigError(f"cannot write in {state}: {error.strerror}") from None
