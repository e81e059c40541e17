"""The systemd unit, the JSON log, `streamer doctor` and `/readyz`."""

from __future__ import annotations

import http.client
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.florence2.pipeline import Florence2
from streamer.cli import doctor
from streamer.cli.doctor import examine
from streamer.cli.doctor_host import time_zone
from streamer.config.model import load
from streamer.core import landlock, logs
from streamer.core.errors import ConfigError
from tests.support import faulty
from tests.support.agents import RunningAgent, until
from tests.support.http_camera import HttpCamera, answer, jpeg, reply
from tests.support.ports import free_port
from tests.support.small_disk import small_disk

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "streamer@.service"
START_S = 100.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_unit_passes_systemd_security_analysis() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]


@needs_systemd
def test_unit_command_runs_under_its_system_call_filter(tmp_path: Path) -> None:
    """With the shipped model, a camera, an output and the page. A forbidden call fails, so the filter is active."""
    sandbox = [sys.executable, str(ROOT / "tests" / "support" / "sandbox.py"), str(UNIT)]
    forbidden = "import os, errno\ntry: os.chroot('/')\nexcept PermissionError: print('forbidden')"
    done = subprocess.run([*sandbox, sys.executable, "-c", forbidden], capture_output=True, text=True)
    assert done.stdout == "forbidden\n", done.stderr
    (command,) = re.findall(r"^ExecStart=\S+/streamer (.*) /etc/streamer/%i.yaml$", UNIT.read_text(), re.MULTILINE)
    camera = {"source": "synthetic", "tasks": [{"task": "object_detection", "every": "500ms"}]}
    outputs = [{"kind": "hls", "stream": "gate"}]
    file = faulty.config(tmp_path, {"gate": camera}, {}, outputs=outputs, web={"bind": "127.0.0.1:0"})
    run = [*sandbox, sys.executable, "-m", "streamer.cli"]
    with RunningAgent(tmp_path, [*command.split(), str(file)], tmp_path / "events.jsonl", command=run) as agent:
        agent.wait_for_results(3, START_S)
        agent.stop()
        assert agent.process.returncode == 0
        lines = [json.loads(line) for line in agent.errors.read_text().splitlines()]
        assert {"streamer", "infer", "emit"} & {line["process"] for line in lines}
        assert not [line for line in lines if line["level"] in ("error", "critical")]


@needs_systemd
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_unit_lets_processes_confine_themselves() -> None:
    sandbox = [sys.executable, str(ROOT / "tests" / "support" / "sandbox.py"), str(UNIT)]
    code = "from streamer.core import landlock\nlandlock.restrict(landlock.Rules())\nopen('/etc/passwd')"
    done = subprocess.run([*sandbox, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("PermissionError: [Errno 13] Permission denied: '/etc/passwd'\n"), done.stderr


def test_json_log_has_one_object_per_line_without_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.setup("infer", "info", "json")
        logging.getLogger("streamer.test").warning("opened %s\nin two lines", "rtsp://eve:hunter22@cam/1")
        try:
            raise ValueError('a "quoted" rtsp://eve:hunter22@cam/1')
        except ValueError:
            logging.getLogger("streamer.test").exception("failed")
    finally:
        root.handlers[:], root.level = before
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (first["process"], first["level"], first["logger"]) == ("infer", "warning", "streamer.test")
    assert "in two lines" in first["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", first["time"])
    assert 'ValueError: a "quoted"' in second["error"]
    assert "hunter22" not in json.dumps([first, second])


def test_doctor_reports_failures_with_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/shm")
    config = tmp_path / "home.yaml"
    tasks = "tasks: [{task: caption}]"
    routes = {"picture.jpg": reply(answer(jpeg(1), "image/jpeg")), "page": reply(answer(b"<html>", "text/html"))}
    with socket.create_server(("127.0.0.1", 0)) as taken, HttpCamera(routes) as camera:
        port, dead = taken.getsockname()[1], free_port()
        config.write_text(
            f"streams:\n  gate: {{source: 'rtsp://eve:hunter22@127.0.0.1:{dead}/x', {tasks}}}\n"
            f"  yard: {{source: {{kind: rtsp, url: 'rtsp://127.0.0.1:{dead}/x', allow: [av1]}}, {tasks}}}\n"
            f"  door: {{source: '{camera.url('/picture.jpg')}', {tasks}}}\n"
            f"  shed: {{source: '{camera.url('/page')}', {tasks}}}\n"
            f"  desk: {{source: /dev/video99, {tasks}}}\n"
            f"sinks: [{{kind: jsonl, path: {tmp_path}/nowhere/e.jsonl}},\n"
            f"  {{kind: webhook, url: 'http://127.0.0.1:{dead}/x'}}, {{kind: mqtt, url: 'mqtt://127.0.0.1:{port}'}},\n"
            f"  {{kind: mqtt, name: far, url: 'mqtt://far.invalid', proxy: 'http://127.0.0.1:{port}'}}]\n"
            f"web: {{bind: '127.0.0.1:{port}'}}\n"
            f"model: {{checkpoint: {tmp_path}/nowhere}}\n"
        )
        assert examine(load(config), config) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(ok|warn|fail) {2,4}\S", line) for line in lines)
    failed = "\n".join(line for line in lines if line.startswith("fail"))
    for word in ("gate: 127.0.0.1", "/dev/video99", "web.bind", "sink jsonl", "sink webhook", "model: does not run"):
        assert word in failed
    assert all(" -> " in line for line in lines if not line.startswith("ok"))
    assert any(re.match(r"warn  FFmpeg \S+: AV1 over RTP \(CVE.*can be reached by yard ->", line) for line in lines)
    assert re.search(r"stream gate: 127\.0\.0\.1:\d+: connection refused: nothing listens there ->", failed)
    assert re.search(
        r"sink webhook: 127\.0\.0\.1:\d+ does not answer \(connection refused: nothing listens there\)", failed
    )
    assert re.search(r"stream shed: 127\.0\.0\.1:\d+: answers with a web page \(text/html\), not video ->", failed)
    for word in ("stream door: 127.0.0.1", "sends 256x144 pictures", "sink mqtt: 127.0.0.1", "sink far: 127.0.0.1"):
        assert any(line.startswith("ok") and word in line for line in lines)
    assert "hunter22" not in "\n".join(lines)


def test_doctor_continues_after_an_unexpected_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("no driver")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = ROOT / "configs" / "demo.yaml"
    loaded = load(config)
    monkeypatch.setattr("streamer.config.model.find_pipeline", broken)
    assert examine(loaded, config) == 1
    output = capsys.readouterr().out
    assert re.search(r"^fail  model: internal error [0-9a-f]{6}\b", output, re.MULTILINE)
    assert "no driver" not in output


def test_doctor_names_the_camera_that_a_library_fails_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no demuxer")

    monkeypatch.setattr("streamer.capture.sources.rtsp.Rtsp.open", broken)
    monkeypatch.setattr("streamer.cli.doctor._model", lambda *_: iter(()))
    config = tmp_path / "home.yaml"
    source = "source: 'rtsp://127.0.0.1/x', tasks: [{task: caption}]"
    config.write_text(f"streams: {{gate: {{{source}}}, yard: {{source: synthetic, tasks: [{{task: caption}}]}}}}")
    assert examine(load(config), config) == 1
    output = capsys.readouterr().out
    assert re.search(r"^fail  stream gate: 127\.0\.0\.1:554: internal error [0-9a-f]{6}\b", output, re.MULTILINE)
    assert re.search(r"^ok    stream yard: ", output, re.MULTILINE)
    assert "no demuxer" not in output


def test_doctor_passes_a_good_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = ROOT / "configs" / "demo.yaml"
    assert examine(load(config), config) == 0
    out = capsys.readouterr().out
    assert re.search(r"model: tiny loads and answers, [\d.]+ s: fast engine on \S+, \w+ \(.+\)$", out, re.MULTILINE)
    assert re.search(r"^ok    FFmpeg \S+: no stream reaches its known faults: AV1 over RTP", out, re.MULTILINE)
    assert re.search(r"^(ok|warn)  +confinement: ", out, re.MULTILINE)


def test_doctor_tests_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(_: object, settings: Any) -> Any:
        if settings.device == "cuda:1":
            raise ConfigError("cuda:1 is not there")
        if settings.device == "cuda:2":
            raise ValueError("broken")
        return SimpleNamespace(model="tiny", description=f"on {settings.device}", warnings=("slow",))

    monkeypatch.setattr(Florence2, "open", opened)
    config = tmp_path / "home.yaml"
    tasks = "tasks: [{task: caption}]"
    model = "{device: ['cuda:0', 'cuda:1', 'cuda:2', cpu, cpu]}"
    config.write_text(f"streams: {{gate: {{source: synthetic, {tasks}}}}}\nmodel: {model}\n")
    findings = [str(finding) for finding in doctor._model(load(config), config)]
    assert [re.sub(r"[\d.]+ s|error \w+|  +", "", line).partition(" ->")[0] for line in findings] == [
        "okmodel on cuda:0: tiny loads and answers, : on cuda:0",
        "warnmodel on cuda:0: slow",
        "failmodel on cuda:1: does not run: cuda:1 is not there",
        "failmodel on cuda:2: internal : the log has the details",
        "okmodel on cpu: tiny loads and answers, : on cpu",
        "warnmodel on cpu: slow",
    ]


def test_doctor_fails_for_a_runtime_folder_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("streamer.cli.doctor._model", lambda *_: iter(()))
    config = tmp_path / "home.yaml"
    config.write_text("streams: {gate: {source: 'synthetic?size=1920x1080', tasks: [{task: caption}]}}")
    with small_disk(tmp_path / "run", "10m") as small:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(small))
        assert examine(load(config), config) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "runtime folder" in line]
    assert re.match(r"fail .*: 10\.5 MB free, 12\.4 MB are needed for the frames .* -> enlarge its file system", line)


@pytest.mark.parametrize(("value", "level"), [("UTC0", "ok"), ("Nowhere/At_All", "warn")])
def test_doctor_looks_at_the_time_zone(monkeypatch: pytest.MonkeyPatch, value: str, level: str) -> None:
    monkeypatch.setenv("TZ", value)
    config = ROOT / "configs" / "demo.yaml"
    (finding,) = time_zone(load(config), config)
    assert finding.level == level


def test_readyz_is_503_until_the_canary_is_answered(tmp_path: Path) -> None:
    """The only task is never due, so the canary gives the only answers."""
    port, loading = free_port(), tmp_path / "loading"
    loading.touch()
    streams = {"gate": {"source": "synthetic", "tasks": [{"task": "caption", "at": "0 0 29 2 *"}]}}
    file = faulty.config(tmp_path, streams, {"loading": str(loading)}, web={"bind": f"127.0.0.1:{port}"})
    environment = faulty.install(tmp_path / "installed")
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
        until(lambda: _ready(port) == 503, START_S, "/readyz returns 503")
        loading.unlink()
        until(lambda: _ready(port) == 200, START_S, f"it is ready; {agent.log()}")
        until(lambda: agent.statuses("agent.canary"), 10, "the sink has written what the web process saw in the ledger")
        assert not agent.results()


def _ready(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
