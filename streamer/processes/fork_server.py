"""The fork server: a process that has imported what children need, and forks each child on request of the parent.

Children share the memory of the imports, and start without importing again. The server runs `python -m
streamer.processes.fork_server MODULE,MODULE`; standard input is its socket. It has one thread, opens no camera and no
other socket, and never gets a config or a secret: a child reads its assignment from its own pipe. Each child is handed
over to the parent, which is its parent process from then on.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

REPORT_FD, HEARTBEAT_FD = 3, 4
"""File descriptors of every child, beside standard input, output and error."""
MAX_DESCRIPTORS = HEARTBEAT_FD + 1
MAX_REQUEST_BYTES = 4096
READY = b"ready"
"""First message of the server: it has imported everything."""
TITLE_BYTES = 512
"""Length of the padding in the server's arguments, which a child's own arguments replace."""
MODULES = ("streamer.processes.worker", "streamer.processes.confinement", "encodings.idna")
"""Modules that every server imports. A child that looks up a host name would otherwise import the last one itself."""
EXAMPLE = {
    "agent": "agent",
    "streams": {
        name: {"source": source, "tasks": [{"task": "caption"}]}
        for name, source in (("camera", "rtsp://camera.invalid"), ("toy", "synthetic"))
    },
}
"""A config that the server reads: the models that this builds take 0.3 s and 14 MB, which children share."""
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1"}
"""Variables that keep NumPy from starting threads when it is imported: a process with threads must not fork, and
confinement covers only threads that are started after it."""


def main() -> NoReturn:
    """Import the modules named in `sys.argv`, then fork a child for each request until the parent is gone."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # a duplicate above the descriptors of a child, so that those stay free
    channel = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, HEARTBEAT_FD + 1))
    gc.disable()  # a freed object leaves a gap in a page, which children would fill and so copy
    _import(sys.argv[1].split(","))
    gc.freeze()  # a collection in a child would otherwise copy each page that holds an object
    gc.enable()
    try:
        channel.send(READY)
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
            if not request:
                os._exit(0)
            answer = _fork_orphan(request, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            channel.send(str(answer).encode())
    except (BrokenPipeError, ConnectionResetError):  # the parent is dead
        os._exit(0)


def _import(modules: Sequence[str]) -> None:
    """Import modules, and do what each child would have to do again and none has to do differently."""
    before = {name: os.environ.get(name) for name in SINGLE_THREADED}
    os.environ.update(SINGLE_THREADED)
    for module in (*MODULES, *modules):
        with suppress(Exception):  # the child imports it again and reports the error
            importlib.import_module(module)
    with suppress(Exception):
        _take_first_steps()
    for name, value in before.items():  # PyTorch, which inference imports later, may have its threads
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _take_first_steps() -> None:
    """Take the first steps of a child, with nothing of the user, so that their models and caches are shared.

    They are to read an assignment with a config, build a report and an event, and look for the program's folders.
    """
    from streamer.config.model import from_checked
    from streamer.events.build import status_event
    from streamer.processes.assignment import Assignment, Report, ReportKind
    from streamer.processes.confinement import KnownFiles, program

    assignment = Assignment.model_validate_json(json.dumps({"config": EXAMPLE, "runtime": "/", "state": "/"}))
    from_checked(assignment.config, is_part=True)
    Report(kind=ReportKind.READY).model_dump_json(exclude_none=True)
    status_event("agent", "camera", "up", None)
    KnownFiles(program())


def _fork_orphan(request: bytes, descriptors: Sequence[int]) -> int:
    """Fork a child whose parent is the parent of this process. Return its process id, or a negative error number.

    The process between them ends at once. The kernel then gives the child to the parent, which has asked for orphans.
    """
    read, write = os.pipe()
    try:
        if (between := _fork()) == 0:
            if (pid := _fork()) == 0:
                _become_child(request, descriptors)
            os.write(write, str(pid).encode())
            os._exit(0)
        if between < 0:
            return between
        os.waitpid(between, 0)  # from here on the child belongs to the parent
        return int(os.read(read, 32))
    finally:
        os.close(read)
        os.close(write)


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


def _become_child(request: bytes, descriptors: Sequence[int]) -> NoReturn:
    """Run the requested role in this process."""
    code: object = 1
    try:
        os.setpgid(0, 0)  # a Ctrl-C in the terminal reaches the parent only, which stops the children in order
        wanted = json.loads(request)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 64) for descriptor in descriptors]
        for descriptor, number in zip(high, wanted["descriptors"], strict=True):
            os.dup2(descriptor, number, inheritable=number in (1, 2))  # programs that the child starts get its output
        os.closerange(HEARTBEAT_FD + 1, 128)
        from streamer.processes import worker

        sys.argv[1:] = wanted["arguments"]
        _set_title([sys.executable, "-m", worker.__name__, *sys.argv[1:]])
        worker.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(code if isinstance(code, int) else 1)


def _set_title(arguments: Sequence[str]) -> None:
    """Replace the arguments that `ps` and /proc show."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        title = b"\0".join(argument.encode() for argument in arguments) + b"\0"
        ctypes.memmove(start, title[: end - start - 1].ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
