"""A cluster of one host on a real Ray, from `streamer cluster run` to `stop`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from streamer.cluster import engine
from streamer.core.errors import ConfigError, StreamerError
from tests.support import faulty
from tests.support.agents import until
from tests.support.ports import free_port

BIN = Path(sys.executable).parent
CAMERA = {"source": "synthetic?fps=5&size=160x120", "tasks": [{"task": "caption", "every": "200ms"}]}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Return a folder for sockets: of Ray, whose names are long, and of the host process."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def run(tmp_path: Path, short_folder: str) -> Iterator[Run]:
    """Run a command in an environment of its own; kill everything that has this environment at the end."""
    mark = f"STREAMER_TEST={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    (tmp_path / "run").mkdir()
    own = {"XDG_STATE_HOME": f"{short_folder}/state", "XDG_RUNTIME_DIR": str(tmp_path / "run"), name: value}
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2, "RAY_USAGE_STATS_ENABLED": "0"}
    ray["RAY_memory_monitor_refresh_ms"] = "0"  # other tests may fill the memory: then it would kill the actors
    environment = {**os.environ, **faulty.install(tmp_path / "installed"), **own, **ray}

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        with (tmp_path / "output").open("w+") as output:
            done = subprocess.run(
                [str(BIN / words[0]), *words[1:]], env=environment | more, cwd=tmp_path,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=300, check=False,
            )  # fmt: skip
            output.seek(0)
            return subprocess.CompletedProcess(words, done.returncode, output.read(), "")

    yield call
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def test_no_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(StreamerError, match=re.escape(f"Ray at {address} (refused): its head must run")):
        engine.Cluster(address)


def test_a_head_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def answer_late(address: str) -> None:
        asked.wait()
        raise TimeoutError

    monkeypatch.setattr(engine, "_check_head", answer_late)
    monkeypatch.setattr(engine, "CALL_S", 0.1)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(StreamerError, match=re.escape("Ray at here:1 (no answer within 0.1 s): its head must run")):
        engine.Cluster("here:1")
    asked.set()


def test_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="Ray is missing"):
        engine.Cluster("here:1")


def test_a_proxy_that_starts_slowly_is_not_replaced() -> None:
    link = engine.Link("node", actor=None)
    assert not link.is_lost(1000)
    link.pending, link.asked_at = object(), 1000
    assert not link.is_lost(1100)
    assert link.is_lost(1000 + engine.START_S + 1)
    link.has_answered = True
    assert link.is_lost(1000 + engine.LOST_PROXY_S + 1)


@pytest.mark.timeout(900)
def test_one_host_from_run_to_stop(tmp_path: Path, run: Run, short_folder: str) -> None:
    port, events = free_port(), tmp_path / "events.jsonl"
    cluster = {"hosts": {"solo": {"address": "127.0.0.1"}}, "lease": "3s"}
    config = faulty.config(tmp_path, {"gate": CAMERA, "yard": CAMERA}, {}, cluster=cluster)
    address = f"127.0.0.1:{port}"
    started = run(
        "ray", "start", "--head", f"--port={port}", "--node-name=solo", "--node-ip-address=127.0.0.1", "--num-cpus=0",
        "--include-dashboard=false", "--object-store-memory=80000000", f"--temp-dir={short_folder}",
    )  # fmt: skip
    assert started.returncode == 0, started.stdout
    assert "start one with" in run("streamer", "cluster", "status", "--address", address).stdout
    wrong = run("streamer", "cluster", "status", "--address", address, RAY_AUTH_TOKEN=uuid.uuid4().hex * 2)
    assert (wrong.returncode, wrong.stdout.count("\n")) == (2, 1), wrong.stdout
    assert f"Ray at {address} refuses the token of this host" in wrong.stdout
    done = run("streamer", "cluster", "run", str(config), "--address", address)
    logs = [path.read_text() for path in Path(short_folder, "state").rglob("host.log")]
    logs += [path.read_text() for path in Path(short_folder).glob("session_latest/logs/worker-*.err")]
    assert done.returncode == 0, "\n".join([done.stdout, *logs])
    assert "solo: up, streams: gate, yard" in done.stdout
    assert until(lambda: events.exists() and events.read_text().count("streamer.result.v1") > 3, 180, "answers")
    first = next(json.loads(line) for line in events.read_text().splitlines() if "streamer.result.v1" in line)
    assert first["source"].startswith("/agents/home-solo/streams/")
    assert first["data"]["lease"] >= 1
    stopped = run("streamer", "cluster", "stop", "--address", address)
    assert stopped.returncode == 0, stopped.stdout
    assert not processes(tmp_path)


def processes(folder: Path) -> str:
    """Return the command lines of the agent's processes."""
    lines = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            line = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in line and "streamer.cli" in line:
                lines.append('"agent":"home-solo"')
    return "".join(lines)
