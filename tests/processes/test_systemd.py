"""Messages of the real program to systemd, through a real notification socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from tests.support import faulty
from tests.support.agents import RunningAgent, until

STREAMS = {
    "gate": {"source": "synthetic?size=160x120", "tasks": [{"task": "caption"}]},
    "dead": {"source": "rtsp://127.0.0.1:9/cam", "tasks": [{"task": "caption"}]},
}


class NotifySocket:
    """systemd's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.received: list[tuple[float, str]] = []

    def lines(self) -> list[str]:
        try:
            while True:
                message = self.socket.recv(4096).decode()
                self.received += [(time.monotonic(), line) for line in message.split("\n")]
        except BlockingIOError:
            return [line for _, line in self.received]

    def has(self, line: str) -> Callable[[], bool]:
        return lambda: line in self.lines()

    def fed_since(self, moment: float) -> bool:
        self.lines()
        return any(line == "WATCHDOG=1" and when > moment for when, line in self.received)


def test_watchdog_is_fed_while_events_can_be_committed(tmp_path: Path) -> None:
    systemd = NotifySocket(tmp_path / "notify")
    loading = tmp_path / "loading"
    loading.touch()
    file = faulty.config(tmp_path, STREAMS, {"loading": str(loading)})
    environment = {**faulty.install(tmp_path / "installed"), "NOTIFY_SOCKET": str(tmp_path / "notify"),
                   "WATCHDOG_USEC": "1500000"}  # fmt: skip
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent, systemd.socket:
        until(systemd.has("READY=1"), 60, f"it is ready; {agent.log()}")
        until(systemd.has("STATUS=loading the model"), 60, "the model is being loaded")
        loading.unlink()
        until(systemd.has("STATUS=running, 2 streams"), 60, "the model is loaded")
        until(lambda: agent.statuses("stream.down", "dead"), 20, "one camera is dead")
        moment = time.monotonic()
        until(lambda: systemd.fed_since(moment + 1.0), 4, "the watchdog is fed all the same")
        (ledger,) = (tmp_path / "state").rglob("ledger.db")
        locked = apsw.Connection(str(ledger))
        locked.execute("BEGIN IMMEDIATE")  # now nobody else can commit
        until(systemd.has("STATUS=events cannot be stored, see the log"), 12, "the status reports it")
        moment = time.monotonic()
        time.sleep(1.5)  # absence: the watchdog is not fed while nothing can be stored
        assert not systemd.fed_since(moment)
        locked.execute("ROLLBACK")
        locked.close()
        until(lambda: systemd.fed_since(moment), 10, f"it is fed again; {agent.log()}")
        agent.stop()
        assert systemd.lines().count("READY=1") == 1
        assert "STOPPING=1" in systemd.lines()
