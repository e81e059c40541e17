"""Things that go away while the agent runs: only what needs them is down, and it is back when they are."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import faulty
from tests.support.agents import RunningAgent, until
from tests.support.clips import write_clip

TASKS = [{"task": "caption", "every": "200ms"}]
PASSWORD = "yardS3cretPassword"
START_S = 60.0


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent with a camera, a recording that is none, a camera with a password, and sinks with files of their own."""
    folder = tmp_path_factory.mktemp("a")
    (folder / "volume").mkdir()
    shutil.copy(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt", folder / "ca.pem")
    (folder / "rec.mp4").write_text("root:x:0:0:root:/root:/bin/bash\n")
    streams = {
        "gate": {"source": "synthetic?fps=25&size=160x120", "tasks": TASKS},
        "rec": {"source": str(folder / "rec.mp4"), "tasks": [{"task": "caption"}]},
        "film": {
            "source": str(write_clip(folder / "film.mp4", 3000)),
            "tasks": [{"task": "ocr", "every_n_frames": 1, "priority": "low"}],
        },
        "yard": {"source": f"rtsp://user:{PASSWORD}@127.0.0.1:9/x", "tasks": TASKS},
    }
    sinks: list[dict[str, Any]] = [
        {"kind": "stdout"},
        {"kind": "jsonl", "path": str(folder / "volume" / "events.jsonl")},
        {"kind": "mqtt", "url": "mqtts://127.0.0.1:9", "ca": str(folder / "ca.pem")},
    ]
    model = {"missing": str(folder / "missing"), "max_batch": 1, "step": 0.02}  # slow, so that the film lasts
    file = faulty.config(folder, streams, model, sinks=sinks)
    environment = {**faulty.install(folder / "installed"), "CAMERA_PASSWORD": "unusedS3cret"}
    with RunningAgent(folder, ["run", str(file)], None, environment) as agent:
        agent.wait_for_results(5, START_S, "gate")
        yield agent
        agent.stop()
        assert agent.process.returncode == 0, agent.log()


def goes_on(agent: RunningAgent, count: int = 5, timeout: float = START_S) -> None:
    """Wait for further results of the camera."""
    agent.wait_for_results(len(agent.results("gate")) + count, timeout, "gate")


def replace(agent: RunningAgent, child: str) -> None:
    """Kill a child and wait until another process of it runs."""
    killed = agent.kill(child)
    until(lambda: agent.children().get(child, killed) != killed, START_S, f"another {child}; {agent.log()}")


def reasons(agent: RunningAgent, subject: str) -> list[str]:
    return [event["data"]["reason"] for event in agent.statuses(subject)]


def test_recording_that_ends_its_process_twice_holds_up_nothing(agent: RunningAgent) -> None:
    for epochs in (1, 2):
        until(lambda count=epochs: len(epochs_of(agent, "film")) == count, START_S, "it is read")  # type: ignore[misc]
        agent.kill("capture:film", signal.SIGSEGV)
    until(lambda: agent.statuses("stream.ended", "film"), START_S, f"it ends; {agent.log()}")
    assert agent.statuses("stream.ended", "film")[0]["data"]["reason"].startswith("2 processes died reading it")
    goes_on(agent)
    until(lambda: "capture:film" not in agent.children(), START_S, "its capture has ended")
    assert len(epochs_of(agent, "film")) == 2


def epochs_of(agent: RunningAgent, stream: str) -> set[int]:
    return {event["data"]["epoch"] for event in agent.results(stream)}


def test_unreadable_recording_is_down_and_the_rest_runs(agent: RunningAgent) -> None:
    until(lambda: agent.statuses("stream.down", "rec"), START_S, "the recording is down")
    reason = agent.statuses("stream.down", "rec")[0]["data"]["reason"]
    assert reason.startswith(f"cannot read {agent.folder / 'rec.mp4'} as a video: ")
    goes_on(agent)
    write_clip(agent.folder / "new.mp4", 10).rename(agent.folder / "rec.mp4")
    until(lambda: agent.statuses("stream.ended", "rec"), START_S, "it is read once it can be")
    assert agent.results("rec")


def test_deleted_recording_hinders_no_restart_of_inference(agent: RunningAgent) -> None:
    (agent.folder / "rec.mp4").unlink(missing_ok=True)
    replace(agent, "infer")
    goes_on(agent)


def test_sinks_without_their_files_are_down_alone(agent: RunningAgent) -> None:
    folder = agent.folder
    (folder / "volume").rename(folder / "away")
    (folder / "ca.pem").rename(folder / "ca.away")
    replace(agent, "emit")
    until(
        lambda: any("no such directory" in reason for reason in reasons(agent, "sink.down")), START_S, "jsonl is down"
    )
    until(
        lambda: any("cannot use the certificates" in one for one in reasons(agent, "sink.down")),
        START_S,
        "mqtt is down",
    )
    goes_on(agent)
    (folder / "away").rename(folder / "volume")
    (folder / "ca.away").rename(folder / "ca.pem")
    until(lambda: [one for one in agent.statuses("sink.up") if one["data"]["sink"] == "jsonl"], START_S, "jsonl is up")


def test_agent_waits_for_its_state_folder(agent: RunningAgent) -> None:
    state = agent.folder / "state" / "streamer" / "home"
    away = state.with_name("away")
    state.rename(away)
    agent.kill("emit")
    until(lambda: "cannot keep the ledger in" in agent.log(), START_S, "it is said")
    until(lambda: "no such folder), restarting in" in agent.log(), START_S, "the parent starts it again")
    away.rename(state)
    goes_on(agent)


def test_lost_checkpoint_is_waited_for(agent: RunningAgent) -> None:
    missing, restarted = agent.folder / "missing", len(agent.statuses("worker.restarted"))
    missing.touch()
    agent.kill("infer")
    until(lambda: "no such checkpoint" in reasons(agent, "worker.restarted")[restarted:], START_S, "it is reported")
    missing.unlink()
    goes_on(agent)


def test_capture_holds_no_secret_of_others(agent: RunningAgent) -> None:
    """Its memory, environment, arguments and limits: a core file would hold no more than the memory."""
    pids = agent.children()
    secrets = [PASSWORD.encode(), b"unusedS3cret"]
    assert any(secrets[0] in part for part in memory(pids["capture:yard"])), "its own password is found"
    for name in ("capture:gate", "infer"):
        assert not [secret for part in memory(pids[name]) for secret in secrets if secret in part], name
    for name, pid in pids.items():
        for file in ("environ", "cmdline"):
            found = Path(f"/proc/{pid}/{file}").read_bytes()
            assert not [secret for secret in secrets if secret in found], (name, file)
        assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()


def memory(pid: int) -> Iterator[bytes]:
    """Yield the writable memory of a process, stopped meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                place, rights, _, _, _, *name = line.split(maxsplit=5)
                start, end = (int(number, 16) for number in place.split("-"))
                if rights.startswith("rw") and end - start < 1 << 28 and not any("/buffers/" in one for one in name):
                    try:
                        file.seek(start)
                        yield file.read(end - start)
                    except OSError:
                        continue
    finally:
        os.kill(pid, signal.SIGCONT)
