"""Real receivers of notifications in a process of their own: the ntfy API, a plain HTTP receiver and a mail server.

Each message that they accept is a line of a file. The process can be stopped, frozen, and told to answer "try later".
"""

from __future__ import annotations

import email
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from email import policy
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.agents import Event, until
from tests.support.hooks import QuietServer
from tests.support.ntfy import published_by
from tests.support.ports import free_port

TARGETS = ("phone", "hook", "mail")
REPEAT = "Possible repeat: "


class Received(NamedTuple):
    target: str
    id: str
    """Id of the incident at `phone`, as ntfy gets it; else that of the event."""
    title: str
    at: float
    """Unix second."""

    @property
    def is_summary(self) -> bool:
        return self.id.startswith("late-")


class AlertReceivers:
    """The process; a context manager. Its ports stay the same when it is started again."""

    def __init__(self, folder: Path, delay: float = 0.0) -> None:
        """`delay`: seconds between the acceptance of a message and the answer."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._busy = folder / "received.jsonl", folder / "busy"
        self._ports, self._delay = [free_port() for _ in TARGETS], delay
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AlertReceivers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def config(self, **keys: Any) -> dict[str, Any]:
        """Return the `notify` of a config with all three. `keys`: of each target."""
        ntfy, hook, smtp = self._ports
        urls = {
            "phone": f"ntfy://127.0.0.1:{ntfy}/alarms",
            "hook": f"json://127.0.0.1:{hook}/hook",
            "mail": f"mailto://127.0.0.1:{smtp}?from=agent@home.example&to=me@home.example&mode=insecure",
        }
        return {name: {"kind": "apprise", "url": url, **keys} for name, url in urls.items()}

    def start(self) -> None:
        known = len(self._lines())
        command = [sys.executable, "-m", "tests.support.alert_receivers", str(self._file), str(self._busy)]
        self._process = subprocess.Popen([*command, str(self._delay), *map(str, self._ports)])
        until(lambda: len(self._lines()) > known, 20, "the receivers listen")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def freeze(self, frozen: bool) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def be_busy(self, busy: bool) -> None:
        """Answer 503 or 451 to every message, or accept them again."""
        self._busy.touch() if busy else self._busy.unlink()

    def received(self, target: str) -> list[Received]:
        """Return the messages that a target has accepted, in their order."""
        found = [Received(*json.loads(line)) for line in self._lines()]
        return [one for one in found if one.target == target]

    def _lines(self) -> list[bytes]:
        return self._file.read_bytes().split(b"\n")[:-1] if self._file.exists() else []


def ids_for(target: str, events: Iterable[Event]) -> list[str]:
    """Return the ids of the events that a target gets; at `phone`, those of their incidents, each once."""
    mine = [one for one in events if target in one["data"].get("notify", ())]
    ids = [one["data"]["incident"] if target == "phone" else one["id"] for one in mine]
    return list(dict.fromkeys(ids))


def main(file: str, busy: str, delay: str, *ports: str) -> None:
    from aiosmtpd.controller import Controller

    log = Path(file).open("a", buffering=1)  # noqa: SIM115 - until the process is killed

    def accept(target: str, key: str, title: str) -> bool:
        if Path(busy).exists():
            return False
        log.write(json.dumps([target, key, title, time.time()]) + "\n")
        time.sleep(float(delay))
        return True

    class Mailbox:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            mail = email.message_from_bytes(envelope.original_content, policy=policy.default)
            return "250 OK" if accept("mail", mail["x-streamer-event"], mail["subject"]) else "451 later"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["x-sequence-id"]:
                message = published_by(self, body)
                accepted = accept("phone", message.sequence, message.title)
            else:
                accepted = accept("hook", self.headers["webhook-id"], json.loads(body)["title"])
            status = 200 if accepted else 503
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    *web, smtp = map(int, ports)
    servers = [QuietServer(("127.0.0.1", port), Handler) for port in web]
    Controller(Mailbox(), hostname="127.0.0.1", port=smtp).start()
    log.write(json.dumps(["", "listening", "", time.time()]) + "\n")
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
