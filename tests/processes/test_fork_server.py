"""The fork server: what it shares, what it never has, and what happens when it is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from streamer.processes.fork_client import ChildProcess, ForkServer
from streamer.processes.fork_server import HEARTBEAT_FD, REPORT_FD
from tests.support.agents import RunningAgent, is_alive, until
from tests.support.process_memory import memory_of

START_S = 60.0
"""Longest start of a process, on a machine with much other work."""
MISSING = "no.such.module"
SECRET = "hunter2-of-the-gate"


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer(["streamer.processes.capture", "streamer.capture.sources._av", MISSING])
    until(lambda: server.wait_ready(0.25), START_S, "the server is ready")
    try:
        yield server
    finally:
        server.close()


def fork(server: ForkServer) -> ChildProcess:
    """Start a capture that waits for its assignment."""
    read, write = os.pipe()
    try:
        return server.fork(["capture", "gate"], {REPORT_FD: write, HEARTBEAT_FD: write})
    finally:
        os.close(read)
        os.close(write)


def server_of(pid: int, module: bytes = b"") -> int:
    """Return the process id of the fork server of an agent. `module`: one that it was asked to import."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            arguments = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"streamer.processes.fork_server" in arguments and module in arguments:
                return int(child)
    return 0


def test_server_has_one_thread_and_no_file(server: ForkServer) -> None:
    pid = server_of(os.getpid(), MISSING.encode())
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    files = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if int(file.name) > 2}
    assert all(file.startswith("socket:") for file in files)
    assert len(files) == 1


def test_child_shows_its_role_and_ends_with_its_parent(server: ForkServer) -> None:
    child = fork(server)
    until(lambda: b"\0capture\0gate\0" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), 5, "its arguments")
    descriptors = {int(name) for name in os.listdir(f"/proc/{child.pid}/fd")}
    assert descriptors <= {0, 1, 2, 3, 4}
    assert os.getpgid(child.pid) == child.pid
    child.stdin.close()
    assert child.wait() == 0


def test_exit_of_a_killed_child_is_its_signal(server: ForkServer) -> None:
    child = fork(server)
    assert child.poll() is None
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.kill()  # no process gets this signal
    child.stdin.close()


def test_children_outlive_the_server(server: ForkServer) -> None:
    child, before = fork(server), server_of(os.getpid(), MISSING.encode())
    os.kill(before, signal.SIGKILL)
    until(lambda: not is_alive(before), START_S, "the end of the server")
    until(lambda: server.wait_ready(0.25), START_S, "another server")
    assert child.poll() is None
    other = fork(server)
    for process in (child, other):
        process.stdin.close()
        assert process.wait() == 0


def test_server_that_hangs_is_replaced(server: ForkServer) -> None:
    before = server_of(os.getpid(), MISSING.encode())
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(OSError, match="does not answer"):
        fork(server)
    until(lambda: server.wait_ready(0.25), START_S, "another server")
    child = fork(server)
    child.stdin.close()
    assert child.wait() == 0


def test_agent_goes_on_when_server_and_captures_are_killed(tmp_path: Path) -> None:
    """Memory of the server and of another capture holds no password of the gate camera."""
    config = {
        "agent": "home",
        "streams": {
            "gate": {"source": f"rtsp://user:{SECRET}@127.0.0.1:9/live", "tasks": [{"task": "caption"}]},
            "yard": {"source": "synthetic", "tasks": [{"task": "caption", "every": "0.2s"}]},
            "door": {"source": "synthetic", "tasks": [{"task": "caption", "every": "0.2s"}]},
        },
        "sinks": [{"kind": "stdout"}],
    }
    path = tmp_path / "home.yaml"
    path.write_text(json.dumps(config))
    with RunningAgent(tmp_path / "agent", ["run", str(path)], tmp_path / "agent" / "events.jsonl") as agent:
        until(lambda: len(agent.children()) == len(config["streams"]) + 2, START_S, "all children")
        before, server = agent.children(), server_of(agent.process.pid)
        until(lambda: SECRET.encode() in memory_of(before["capture:gate"]), START_S, "the camera's process has it")
        assert SECRET.encode() not in memory_of(server)
        assert SECRET.encode() not in memory_of(before["capture:yard"])
        os.kill(server, signal.SIGKILL)
        until(lambda: server_of(agent.process.pid) not in (0, server), START_S, "another server")
        assert agent.children() == before
        agent.kill("capture:yard")
        until(lambda: agent.children().get("capture:yard", before["capture:yard"]) != before["capture:yard"], 20, "new")
        now = agent.children()
        assert {**now, "capture:yard": 0} == {**before, "capture:yard": 0}
        everyone = [server_of(agent.process.pid), *now.values()]
        agent.process.kill()
        until(lambda: not any(map(is_alive, everyone)), 20, "all end with the parent")
