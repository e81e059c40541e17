"""The parent's end of the fork server: starts it, and asks it for children. See `fork_server.py`."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from streamer.core.backoff import Backoff
from streamer.processes.assignment import Role
from streamer.processes.config_part import environment
from streamer.processes.fork_server import MAX_REQUEST_BYTES, READY, TITLE_BYTES

log = logging.getLogger(__name__)

READY_S = 60.0
"""Longest time for the imports of the server, on a slow disk."""
ANSWER_S = 5.0
"""Longest wait for one child. A fork takes some milliseconds."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 30.0
"""Delay before a server that ended is started again."""
_PR_SET_CHILD_SUBREAPER = 36


class ChildProcess:
    """A process of the fork server whose parent is this process. `returncode` is as of `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: int) -> None:
        self.pid = pid
        self.stdin = os.fdopen(stdin, "wb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code of a process that has ended, else None."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is known to have ended. Its id is not reused before that."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class ForkServer:
    """The fork server of an agent. Children that it has forked do not depend on it."""

    def __init__(self, modules: Iterable[str]) -> None:
        """`modules`: what the server imports."""
        self._modules = ",".join(dict.fromkeys(modules))
        self._backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S)
        self._start_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._is_ready = False
        _adopt_orphans()

    def close(self) -> None:
        """End the server."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._is_ready = False

    def wait_ready(self, timeout: float) -> bool:
        """Start the server if it does not run. Return whether it is ready, after at most `timeout` seconds."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self._restart_later(reason)
        if self._process is None and now >= self._start_at:
            try:
                self._start()
            except OSError as error:
                self._restart_later(f"cannot be started: {error.strerror}")
        if self._channel is not None and not self._is_ready:
            self._channel.settimeout(timeout)
            with suppress(OSError):
                self._is_ready = self._channel.recv(len(READY)) == READY
            if not self._is_ready and now > self._start_at + READY_S:
                self._restart_later(f"not ready within {READY_S:g} s")
        return self._is_ready

    def fork(self, arguments: Sequence[str], descriptors: Mapping[int, int]) -> ChildProcess:
        """Start `worker` with these arguments and return it. Raises OSError, also while the server is not ready.

        `descriptors`: those of this process that the child gets, by their numbers in the child. Its standard input is a
        new pipe. Its standard output and error are those of the server unless given.
        """
        if not self.wait_ready(0.0) or self._channel is None:
            raise OSError(errno.EAGAIN, "the fork server is not ready")
        stdin, write = os.pipe2(os.O_CLOEXEC)
        try:
            self._channel.settimeout(ANSWER_S)
            request = json.dumps({"arguments": [*arguments], "descriptors": [0, *descriptors]})
            socket.send_fds(self._channel, [request.encode()], [stdin, *descriptors.values()])
            answer = self._channel.recv(MAX_REQUEST_BYTES)
        except OSError:
            os.close(write)  # a child that was forked nevertheless reads the end of file, and ends
            self._restart_later("no answer")
            raise OSError(errno.EAGAIN, "the fork server does not answer") from None
        finally:
            os.close(stdin)
        self._backoff.reset()
        if (pid := int(answer or -errno.EAGAIN)) < 0:
            os.close(write)
            raise OSError(-pid, os.strerror(-pid))
        return ChildProcess(pid, write)

    def reap_orphans(self, known: Iterable[int]) -> None:
        """Remove ended processes that are none of the `known` children, such as what a killed child had started."""
        own = {*known, self._process.pid if self._process else 0}
        with suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
                os.waitpid(ended.si_pid, 0)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "streamer.processes.fork_server", self._modules, " " * TITLE_BYTES],
                    stdin=theirs.fileno(),
                    env=environment(Role.CAPTURE),
                    process_group=0,
                )
            except OSError:
                ours.close()
                raise
        self._channel, self._start_at = ours, time.monotonic()

    def _restart_later(self, reason: str) -> None:
        delay = self._backoff.next_delay()
        log.warning("fork server ended (%s), restarting in %.1f s", reason, delay)
        self.close()
        self._start_at = time.monotonic() + delay


def _adopt_orphans() -> None:
    """Have the kernel make this process the parent of each process below it that loses its own."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not hand over child processes")
