"""Folders of an agent: the runtime folder for sockets and frame buffers, the state folder for the ledger."""

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
    """The folders of this process's agent, locked against other agents of the same name."""

    runtime: Path
    """Sockets and frame buffers. Mode 0700, on a tmpfs where available."""
    state: Path
    """Ledger and saved changes. Mode 0700."""

    @classmethod
    @contextlib.contextmanager
    def acquire(cls, agent: str, sockets: Iterable[str], keep_state: bool) -> Iterator[AgentPaths]:
        """Create and lock the folders. Raises ConfigError when they are in use or cannot be created.

        Runtime folder: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/streamer/<agent>, else a temporary folder.
        State folder: $STATE_DIRECTORY, else $XDG_STATE_HOME/streamer/<agent>, else ~/.local/state/streamer/<agent>.
        Without `keep_state` both are temporary. `sockets`: file names of the sockets in the runtime folder; their
        paths are checked for length.
        """
        with contextlib.ExitStack() as stack:
            runtime = runtime_folder(agent) if keep_state else None
            if runtime is None:
                temporary = tempfile.mkdtemp(prefix="streamer-", dir=memory_folder())
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                runtime = Path(temporary)
            state = state_folder(agent) if keep_state else runtime / "state"
            for folder in (runtime, state):
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    folder.chmod(0o700)
                except OSError as error:
                    raise ConfigError(f"cannot create the folder {folder}: {error.strerror}") from None
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
    """Return the folder for sockets and frame buffers, or None for a temporary one."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given)
    if given := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "streamer" / agent
    return None


def state_folder(agent: str) -> Path:
    """Return the folder for the ledger."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given)
    return state_home() / agent


def state_home() -> Path:
    """Return the folder that holds the state folders of this user's agents, and files shared by them."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "streamer"


def memory_folder() -> str | None:
    """Return a writable tmpfs for temporary folders, or None."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def find_running(agent: str | None) -> tuple[str, Path]:
    """Return name and runtime folder of the running agent. Raises ConfigError unless exactly one is found.

    `agent`: name or state folder. None: any agent of this user.
    """
    if agent is not None and "/" in agent:
        places = [Path(agent)]
    else:
        places = sorted(state_folder(agent or "any").parent.glob(agent or "*"))
        places += [Path(given)] if (given := os.environ.get("STATE_DIRECTORY")) else []
    found = {place.name: runtime for place in places if (runtime := _locked_runtime(place / "lock")) is not None}
    if len(found) == 1:
        return found.popitem()
    if found:
        raise ConfigError(f"several agents are running ({', '.join(found)}): choose one with --agent")
    raise ConfigError(
        f"agent {agent} is not running" if agent else "no agent is running: start one with `streamer run`"
    )


def _locked_runtime(lock: Path) -> Path | None:
    """Return the runtime folder of the agent that holds this lock, or None when it is not held."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Path(lock.read_text())
    except OSError:
        pass  # no such agent, or of another user
    return None


def _lock(stack: contextlib.ExitStack, state: Path, runtime: Path, agent: str) -> None:
    """Lock the state folder and write the runtime folder into its lock file, for `find_running`."""
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
