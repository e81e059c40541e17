"""What every child process of the supervisor shares: how it is told its job, asked to stop, and reports back.

The parent starts `python -m streamer.processes.worker ROLE [STREAM]`, writes one JSON line (the assignment) to its
standard input and keeps that pipe open; its end of file means that the parent died. The child writes JSON lines to
the file descriptor `report_fd`. Nothing secret is ever in an argument or the environment.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from streamer.config.model import Config, from_mapping
from streamer.core import logs
from streamer.core.errors import EXIT_CONFIG, ConfigError
from streamer.processes.heartbeat import Heartbeat, dump_file, heartbeat_file

log = logging.getLogger(__name__)

ORPHAN_S = 8.0
"""What a role has to finish in once the parent is dead; nobody else would end one that is stuck."""
_PR_SET_PDEATHSIG = 1
ROLES = {
    "capture": "streamer.processes.capture",
    "infer": "streamer.processes.infer",
    "emit": "streamer.processes.emit",
    "view": "streamer.processes.view",
    "push": "streamer.processes.push",
    "web": "streamer.processes.web",
}


class Worker:
    """A child process, seen from inside its role."""

    def __init__(
        self,
        config: Config,
        runtime: Path,
        state: Path,
        stream: str | None,
        report_fd: int,
        max_events: int | None = None,
        pulse: Heartbeat | None = None,
        was_killed: bool = False,
    ) -> None:
        self.config = config
        self.runtime = runtime
        """Directory of sockets and frame buffers, mode 0700, on a tmpfs."""
        self.state = state
        """Directory of what must outlive the processes (the ledger)."""
        self.stream = stream
        """Of capture: the stream. Of view and push: the view's and the output's name. Else None."""
        self.max_events = max_events
        """Of emit: end the agent after this many results on standard output."""
        self.heartbeat = pulse or Heartbeat()
        """The sign of life that the parent watches: every turn of the role's work loop says `beat`."""
        self.was_killed = was_killed
        """The process before was ended by somebody's kill -9, so nothing that it did is to blame."""
        self._report_fd = report_fd
        self.stopping = False
        self.stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once the process was asked to stop: put it into every poll."""

    def stop(self, *_: object) -> None:
        """Ask the role to finish.

        Also the handler of SIGTERM, which may come while it runs: it must take no lock, not even an Event's.
        """
        self.stopping = True
        os.eventfd_write(self.stop_fd, 1)

    def report(self, kind: str, **data: Any) -> None:
        """Tell the parent: `ready`, `first_frame`, `finished` (the limit of events is reached), `ended`, `failed`.

        `crashed`: why it ends now. `stuck`: only a new process can do the work; replace it.
        """
        line = json.dumps({"kind": kind, **data}) + "\n"
        try:
            os.write(self._report_fd, line.encode())
        except BrokenPipeError:
            self.stop()


def _watch_parent(worker: Worker) -> None:
    """Stop when the parent closed its end of our standard input, which a dead parent has; soon, or by force."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        worker.stop()
        time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _leave_stacks_in(path: Path) -> None:
    """Where every thread stands, on SIGUSR1 and on a fatal signal, from C: also while a library holds Python up."""
    file = path.open("wb")
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file, all_threads=True)


def _read_assignment() -> Mapping[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        select.select([0], [], [])
        chunk = os.read(0, 1 << 16)
        if not chunk:
            raise SystemExit(0)
        line += chunk
    assignment: Mapping[str, Any] = json.loads(line)
    return assignment


def main() -> NoReturn:
    """Run one role to its end. Exit codes: 0 done, 2 ConfigError, anything else a crash."""
    _die_with_parent()
    role, *rest = sys.argv[1:]
    stream = rest[0] if rest else None
    name = f"{role}:{stream}" if stream else role
    assignment = _read_assignment()
    logs.setup(name, assignment["log_level"], assignment.get("log_format", "text"))
    runtime = Path(assignment["runtime"])
    pulse = Heartbeat(heartbeat_file(runtime, name))
    _leave_stacks_in(dump_file(runtime, name))
    worker = Worker(
        config=from_mapping(assignment["config"]),
        runtime=runtime,
        state=Path(assignment["state"]),
        stream=stream,
        report_fd=assignment["report_fd"],
        max_events=assignment["max_events"],
        pulse=pulse,
        was_killed=assignment.get("was_killed", False),
    )
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_parent(worker)
    code = 0
    try:
        importlib.import_module(ROLES[role]).run(worker)
        if not worker.stopping:
            worker.report("ended")
    except ConfigError as error:
        worker.report("failed", reason=str(error))
        code = EXIT_CONFIG
    except Exception as error:
        log.exception("%s crashed", role)
        worker.report("crashed", reason=f"{type(error).__name__}: {error}")
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # not sys.exit: a thread inside libav must not keep a finished process alive


if __name__ == "__main__":
    main()
