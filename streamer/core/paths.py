"""Folders of an agent: the runtime folder for sockets and frame buffers, the state folder for the ledger.

Both hold a lock file with the process id of the agent and the path of its runtime folder. The kernel releases the locks
when the agent dies, so a folder whose lock is free is of no agent that runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.core import atomic_file
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket, in bytes; a limit of Linux."""
LOCK = "lock"
"""Name of the lock file in both folders."""
_TEMPORARY = "streamer-"
"""First part of the name of a temporary folder."""
_USE_OTHER = "set $XDG_RUNTIME_DIR to a folder that only this user can write, on a tmpfs if possible"


@dataclass(frozen=True, slots=True)
class AgentPaths:
    """The folders of this process's agent, locked against other agents."""

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
        remove_leftovers()
        with contextlib.ExitStack() as stack:
            named = runtime_folder(agent) if keep_state else None
            runtime = named or _temporary_folder(stack)
            if named is not None:
                _make_private(runtime)
            # Never in the runtime folder, which the processes that decode can read.
            state = state_folder(agent) if keep_state else _temporary_folder(stack)
            if keep_state:
                _make_state(state)
                _lock(
                    stack, state / LOCK, runtime, f"agent {agent} is already running", "stop it, or rename this agent"
                )
            if named is not None:
                _lock(stack, runtime / LOCK, runtime, f"the runtime folder {runtime} is in use", _USE_OTHER)
            check_socket_lengths(runtime, sockets)
            _clear(runtime)
            yield cls(runtime, state)


def _temporary_folder(stack: contextlib.ExitStack) -> Path:
    """Return a new locked folder that is deleted at the end."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=_temporary_parent()))
    except OSError as error:
        raise ConfigError(f"no folder for sockets and frame buffers ({error.strerror}): {_USE_OTHER}") from None
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    # Renamed when it is locked: `remove_leftovers` of another agent takes the folder of a free lock for a leftover.
    _lock(stack, folder / "lock.new", folder, f"the runtime folder {folder} is in use", _USE_OTHER)
    os.rename(folder / "lock.new", folder / LOCK)
    return folder


def remove_leftovers() -> None:
    """Delete the temporary folders of this user's killed agents: nothing else frees their memory."""
    with contextlib.suppress(OSError):
        for folder in Path(_temporary_parent()).glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(OSError):
                found = folder.lstat()
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                    _remove_if_unlocked(folder)


def _remove_if_unlocked(folder: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if Path(_read_lock(folder / LOCK)[1]) != folder.absolute():
            return  # a folder of another program, which has such a name by chance
        shutil.rmtree(folder, ignore_errors=True)
        log.info("%s removed: a killed agent left it", folder)
    finally:
        os.close(lock)


def _temporary_parent() -> str:
    """Return the folder for temporary runtime folders. Raises OSError if there is none."""
    return memory_folder() or tempfile.gettempdir()


def _make_private(runtime: Path) -> None:
    """Create the runtime folder with mode 0700. A link or a folder of another user is refused: files go through it."""
    named_here = [runtime] if os.environ.get("RUNTIME_DIRECTORY") else [runtime, runtime.parent]
    for folder in named_here:
        if folder.is_symlink():
            raise ConfigError(f"the runtime folder {folder} is a symbolic link: remove it, or {_USE_OTHER}")
    try:
        runtime.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            owner = os.fstat(descriptor).st_uid
            if owner != os.geteuid():
                raise ConfigError(f"the runtime folder {runtime} belongs to user {owner}: {_USE_OTHER}")
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot create the runtime folder {runtime}: {error.strerror}: {_USE_OTHER}") from None


def _make_state(state: Path) -> None:
    try:
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot create the state folder {state}: {error.strerror}: set $XDG_STATE_HOME to a writable folder"
        ) from None


def check_socket_lengths(folder: Path, sockets: Iterable[str], is_state: bool = False) -> None:
    """Raise ConfigError, with the setting to change, if the path of a socket in a folder is too long for Linux.

    `is_state`: the folder is in the state folder of the agent, otherwise it is the runtime folder.
    """
    longest = max((f"{folder}/{name}" for name in sockets), key=len)
    if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
        service, user = ("STATE_DIRECTORY", "XDG_STATE_HOME") if is_state else ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")
        setting = service if os.environ.get(service) else user
        names = "the agent or the host" if is_state else "the agent, the stream or the output"
        raise ConfigError(
            f"the socket path {longest} is longer than {MAX_SOCKET_PATH} bytes: set ${setting} to a folder with a "
            f"shorter path, or give {names} a shorter name"
        )


def _clear(runtime: Path) -> None:
    """Remove the frame buffers of killed processes, and links, which this program never makes."""
    shutil.rmtree(runtime / "buffers", ignore_errors=True)
    for entry in os.scandir(runtime):
        if entry.is_symlink():
            os.unlink(entry)


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
    """Return the folder that holds the state folders of this user's agents, and files shared by them.

    Raises ConfigError for a user without a home.
    """
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given) / "streamer"
    try:
        return Path.home() / ".local" / "state" / "streamer"
    except RuntimeError:
        raise ConfigError(
            "no home folder: $HOME is not set and the user has no entry in /etc/passwd; set $XDG_STATE_HOME to a "
            "folder for the events"
        ) from None


def keys_folder() -> Path:
    """Return the folder of this host's key and of the keys of other hosts.

    It is in $STATE_DIRECTORY, else beside the state folders of this user's agents; no agent can have its name. Raises
    ConfigError for a user without a home.
    """
    given = os.environ.get("STATE_DIRECTORY")
    return (Path(given) if given else state_home()) / "host.keys"


def cache_home() -> Path:
    """Return the folder for files that are made again when they are missing.

    $CACHE_DIRECTORY, else $XDG_CACHE_HOME/streamer, else ~/.cache/streamer. Raises ConfigError for a user without a
    home.
    """
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "streamer"
    try:
        return Path.home() / ".cache" / "streamer"
    except RuntimeError:
        raise ConfigError("no home folder: set $XDG_CACHE_HOME to a folder for converted models") from None


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
        places = sorted(state_folder("any").parent.glob("*"))
        places += [Path(given)] if (given := os.environ.get("STATE_DIRECTORY")) else []
        places = [place for place in places if not agent or place.name == agent]
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
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Path(_read_lock(lock)[1])
        finally:
            os.close(descriptor)
    except OSError:
        pass  # no such agent, or of another user
    return None


def _read_lock(lock: Path) -> tuple[str, str]:
    """Return process id and runtime folder of the agent that holds a lock."""
    process, _, runtime = os.fsdecode(atomic_file.read(lock)).partition("\n")
    return process, runtime


def _lock(stack: contextlib.ExitStack, lock: Path, runtime: Path, in_use: str, remedy: str) -> None:
    """Lock a file until the end, and write process id and runtime folder into it."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode() + os.fsencode(runtime.absolute()), 0)
    except BlockingIOError:
        raise ConfigError(f"{in_use}: process {_read_lock(lock)[0]} holds {lock}: {remedy}") from None
    except OSError as error:
        raise ConfigError(f"cannot write {lock}: {error.strerror}: {remedy}") from None
