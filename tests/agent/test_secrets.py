"""A real agent with secrets in every place, against servers that send them back: no output shows one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamer.processes.assignment import Assignment
from tests.support.agents import RunningAgent, until
from tests.support.tcp_server import TcpServer

TOKEN = "S3cret20-token-token"
ENVIRONMENT = {"CAM_PASSWORD": "ENVSECRET31", "CAM_CREDENTIAL": "ENVSECRET32", "HOOK_TOKEN": "ENVSECRET33"}
STREAMS = {f"a{number}" for number in range(1, 8)}
WORDS = (b"S3cret", b"ENVSECRET")
MARK = re.compile(b"(?:%b)" % b"|".join(WORDS) + rb"\d\d")

Answer = Callable[[bytes, bytes], bytes]
"""Returns a response for the first line of a request and its Authorization header."""


class Reflecting(TcpServer):
    """A server of any protocol that sends back what it received; a context manager."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def serve(self, client: socket.socket) -> None:
        client.settimeout(5)
        lines = client.recv(65536).split(b"\r\n")
        secrets = [line for line in lines if line.lower().startswith(b"authorization")]
        client.sendall(self._answer(lines[0], b" ".join(secrets)))


END = b"\r\nContent-Length: 0\r\n\r\n"
ANSWERS: dict[str, Answer] = {
    "status line": lambda line, secret: b"HTTP/1.1 5x0 " + line + b" " + secret + b"\r\n\r\n",
    "realm": lambda line, _: b'HTTP/1.1 401 no\r\nWWW-Authenticate: Basic realm="' + line + b'"' + END,
    "RTSP": lambda line, _: b"RTSP/1.0 404 " + line + b"\r\nCSeq: 1\r\n\r\n",
    "redirect": lambda line, _: b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:9/" + line.partition(b"/")[2] + END,
    "header": lambda line, secret: b"HTTP/1.1 200 OK\r\nX " + line + b"\r\n bad" + secret + b"\r\n\r\n",
}  # fmt: skip


def _config(folder: Path, at: dict[str, str]) -> dict[str, object]:
    """`at`: address of each server by the name of its answer."""
    sources = {
        "a1": f"rtsp://user:S3%40cret-S3cret01@{at['RTSP']}/x?tok=abc-S3cret02",
        "a2": f"http://user:S3cret04@{at['realm']}/x?token=abc+S3cret05/==",
        "a3": f"http://{at['status line']}/x?token=abc%2bS3cret06%3d",
        "a4": f"http://{at['redirect']}/x?long-S3cret08",
        "a5": f"rtsp://{at['RTSP']}/user=admin_password=S3cret09_channel=1.sdp",
        "a6": "rtsp://user:${CAM_PASSWORD}@127.0.0.1:9/x",
        "a7": "rtsp://user:${CAM_CREDENTIAL}@127.0.0.1:9/x",
    }
    hooks = [
        f"http://u:S3cret10@{at['status line']}/h?key=abc+S3cret11==",
        f"http://{at['status line']}/h/S3cret12",
        f"http://{at['header']}/h?key=a%2bS3cret13",
        f"http://{at['redirect']}/h?k=abc+S3cret15==",
        f"http://u:p%22S3cret16@{at['realm']}/h/${{HOOK_TOKEN}}",
    ]
    return {
        "streams": {name: {"source": url, "tasks": [{"task": "caption"}]} for name, url in sources.items()},
        "sinks": [
            {"kind": "jsonl", "path": str(folder / "events.jsonl")},
            *({"kind": "webhook", "name": f"w{n}", "url": url, "timeout": 3} for n, url in enumerate(hooks)),
            {"kind": "mqtt", "url": f"mqtt://u:S3cret17@{at['realm']}"},
        ],
        "outputs": [{"kind": "rtsp_push", "stream": "a1", "url": f"rtsp://u:S3cret18@{at['RTSP']}/x?k=abc+S3cret19"}],
        "web": {"bind": "127.0.0.1:0", "token": TOKEN},
    }


def test_running_agent_shows_no_secret_anywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("s")  # a short path: a socket path has at most 107 bytes
    shown: dict[str, bytes] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Reflecting(answer)) for name, answer in ANSWERS.items()}
        path = tmp_path / "home.yaml"
        path.write_text(json.dumps(_config(tmp_path, {name: server.address for name, server in servers.items()})))
        command = ["run", "--log-level", "debug", str(path)]
        agent = stack.enter_context(
            RunningAgent(tmp_path / "agent", command, tmp_path / "events.jsonl", {**ENVIRONMENT, "COLUMNS": "250"})
        )
        address = until(lambda: re.findall(r"page served at (http://[\d.:]+)", _log(agent)), 60, "a page")[0]
        until(lambda: {e["data"]["stream"] for e in agent.statuses("stream.down")} == STREAMS, 60, "all cameras down")
        until(lambda: all(f"w{n}" in _log(agent) for n in range(5)), 60, "a failure of each webhook")

        for name, pid in agent.children().items():
            shown[f"arguments of {name}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
            shown[f"environment of {name}"] = Path(f"/proc/{pid}/environ").read_bytes()
        for page in (
            "/api/streams",
            "/api/events?limit=1000",
            "/metrics",
            "/healthz",
            "/readyz",
            "/",
            "/api/snapshot/a1.jpg",
        ):
            shown[page] = _get(address + page)
        folders = {"XDG_RUNTIME_DIR": str(agent.folder / "run"), "XDG_STATE_HOME": str(agent.folder / "state")}
        commands = {
            arguments[0]: subprocess.Popen(
                [sys.executable, "-m", "streamer.cli", *arguments],
                env={**os.environ, **ENVIRONMENT, **folders}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for arguments in (["top", "--once"], ["doctor", str(path)], ["check", str(path)], ["events"])
        }  # fmt: skip
        for name, process in commands.items():
            shown[name] = b"".join(process.communicate(timeout=300))
        for file in agent.folder.rglob("*"):
            if file.is_file():
                shown[str(file)] = file.read_bytes()
        agent.stop()
        shown["log"] = agent.errors.read_bytes()
        shown["events file"] = (tmp_path / "events.jsonl").read_bytes()
    leaks = {where: sorted(set(MARK.findall(text))) for where, text in shown.items() if has_word(text)}
    assert not any(leaks.values()), leaks
    assert len(shown) > 25
    assert b"a1" in shown["/api/streams"]
    assert b"a1" in shown["top"]
    assert b"stream a1" in shown["doctor"]


def has_word(text: bytes) -> bool:
    """Return whether a secret may be in a text. A regular expression would take a minute for all files of an agent."""
    return any(word in text for word in WORDS)


def _log(agent: RunningAgent) -> str:
    return agent.errors.read_text(errors="replace")


def _get(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        return error.read()


def test_child_redacts_the_secrets_of_its_assignment(tmp_path: Path) -> None:
    """The secret is in no URL, so only the assignment tells; the error occurs before the role runs."""
    config = {
        "agent": "home",
        "streams": {"gate": {"source": "clips/a.mp4", "tasks": [{"task": "from-env-71"}]}},
    }
    read, write = os.pipe()
    assignment = Assignment(config=config, runtime=tmp_path, state=tmp_path, report_fd=write, secrets=("from-env-71",))
    result = subprocess.run(
        [sys.executable, "-m", "streamer.processes.worker", "capture", "gate"],
        input=assignment.model_dump_json().encode() + b"\n",
        pass_fds=[write], capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read, "rb") as reports:
        output = result.stderr + result.stdout + reports.read()
    assert result.returncode != 0
    assert b"unknown task `***`" in output
    assert b"from-env" not in output
