"""The command line: its output, errors and exit codes."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.cli import main
from streamer.config.model import find_pipeline

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def streamer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Run the command in an empty folder; returns exit code, standard output and standard error."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamer", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        output, errors = capsys.readouterr()
        return int(ended.value.code or 0), output, errors

    yield run
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # `run` blocks signals, which child processes would inherit


def test_tasks_lists_every_task(streamer: Run) -> None:
    code, output, _ = streamer("tasks")
    lines = output.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[1:]] == list(find_pipeline().tasks())
    assert any(line.startswith("region_to_ocr ") and "region" in line.split()[1] for line in lines)


@pytest.mark.parametrize("what", ["config", "event"])
def test_schema_prints_json_schema(streamer: Run, what: str) -> None:
    code, output, _ = streamer("schema", what)
    assert code == 0
    assert json.loads(output)["$defs"]


def test_check_prints_the_config_without_secrets(streamer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cretword")
    Path("home.yaml").write_text(
        "streams: {gate: {source: 'rtsp://u:${CAMERA_PASSWORD}@h/', tasks: [{task: ocr, every: 5s}]}}"
    )
    code, output, errors = streamer("check", "home.yaml")
    assert code == 0
    assert "home.yaml is valid: agent home" in output
    assert "stream gate: kind rtsp, url rtsp://***@h/" in output
    assert "ocr, every 5 s" in output
    assert "s3cretword" not in output + errors


LONG = "/tmp/" + "x" * 90
CLUSTER = {"cluster": {"hosts": {"north": {"address": "10.0.0.1"}}}}


@pytest.mark.parametrize(
    ("variable", "value", "more", "problem"),
    [
        ("XDG_RUNTIME_DIR", LONG, {}, "set $XDG_RUNTIME_DIR to a folder with a shorter path"),
        ("RUNTIME_DIRECTORY", LONG, {}, "set $RUNTIME_DIRECTORY to a folder with a shorter path"),
        ("XDG_STATE_HOME", LONG, CLUSTER, "set $XDG_STATE_HOME to a folder with a shorter path"),
        ("STATE_DIRECTORY", LONG, CLUSTER, "set $STATE_DIRECTORY to a folder with a shorter path"),
        ("XDG_STATE_HOME", LONG, {}, ""),
        ("ANY", "", {"sinks": [{"kind": "zmq", "endpoint": f"ipc://{LONG}/123456789"}]}, "sinks[0].endpoint"),
    ],
)
def test_check_refuses_a_long_socket_path(
    streamer: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, more: dict[str, Any], problem: str
) -> None:
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    keys = {"streams": {"gate": {"source": "rtsp://h/", "tasks": [{"task": "ocr", "every": "5s"}]}}}
    Path("home.yaml").write_text(json.dumps({**keys, **more}))
    code, _, errors = streamer("check", "home.yaml")
    assert code == (2 if problem else 0)
    assert problem in errors


def test_check_prints_which_rules_a_mode_arms(streamer: Run) -> None:
    Path("home.yaml").write_text(
        "streams: {a: {source: synthetic, tasks: [{task: object_detection}]}}\n"
        "modes: {home: {}, away: {at: '0 7 * * *'}}\n"
        "rules: {dog: {when: {label: dog}}, thief: {when: {label: person}, modes: [away]}}"
    )
    code, output, _ = streamer("check", "home.yaml")
    assert code == 0
    assert "mode home, at the first start: dog armed" in output
    assert "mode away, from 0 7 * * *: dog, thief armed" in output
    assert "  rule dog: label dog, severity medium, streams a\n" in output
    assert "  rule thief: label person, severity medium, streams a, modes away\n" in output


def test_check_reports_a_sink_that_cannot_write(streamer: Run) -> None:
    Path("home.yaml").write_text(
        "streams: {a: {source: synthetic, tasks: [{task: ocr}]}}\nsinks: [{kind: jsonl, path: no/such/folder/a.jsonl}]"
    )
    code, _, errors = streamer("check", "home.yaml")
    assert code == 2
    assert "cannot write no/such/folder/a.jsonl: no such directory" in errors


@pytest.mark.parametrize(
    "part",
    [
        "sinks: [{kind: jsonl, path: $LOGS/a.jsonl}]",
        "sinks: [{kind: zmq, endpoint: 'ipc://$LOGS/bus.sock'}]",
        "sinks: [{kind: webhook, url: 'https://127.0.0.1:9/', ca: $LOGS/ca.pem}]",
        "outputs: [{kind: mp4, stream: a, path: $LOGS}]",
    ],
)
def test_missing_path_with_a_variable_names_the_syntax(streamer: Run, part: str) -> None:
    Path("home.yaml").write_text(f"streams: {{a: {{source: synthetic, tasks: [{{task: ocr}}]}}}}\n{part}\n")
    code, _, errors = streamer("check", "home.yaml")
    assert code == 2
    assert errors.endswith(" ($LOGS is not replaced: a config takes environment variables as ${LOGS})\n")


def test_probe_opens_every_source(streamer: Run) -> None:
    Path("broken.mp4").write_bytes(b"this is no video")
    Path("home.yaml").write_text(
        "streams:\n"
        "  toys: {source: 'synthetic?fps=50&size=320x240', tasks: [{task: ocr}]}\n"
        "  desk: {source: /dev/video-none, tasks: [{task: ocr}]}\n"
        "  gate: {source: 'rtsp://user:s3cretword@127.0.0.1:9/', tasks: [{task: ocr}]}\n"
        "  clip: {source: broken.mp4, tasks: [{task: ocr}]}\n"
    )
    code, output, errors = streamer("check", "home.yaml", "--probe")
    lines = dict(line.split(": ", 1) for line in output.splitlines())
    assert code == 1
    assert lines["toys"] == "320x240, 50 fps"
    assert "no such device" in lines["desk"]
    assert "refused" in lines["gate"]
    assert "broken.mp4" in lines["clip"]
    assert "s3cretword" not in output + errors


def test_probe_of_working_sources_exits_with_0(streamer: Run) -> None:
    Path("home.yaml").write_text("streams: {toys: {source: synthetic, tasks: [{task: ocr}]}}")
    assert streamer("check", "home.yaml", "--probe") == (0, "toys: 640x480, 25 fps\n", "")


BAD_WATCH = {
    "synthetic --task object_detecton": "--task: unknown task `object_detecton` (did you mean `object_detection`?)",
    "synthetic --task phrase_grounding": "--text is missing: phrase_grounding needs it",
    "synthetic --task caption --text dog": "--text: caption takes no text",
    "synthetic --task region_to_ocr": "--region is missing: region_to_ocr needs it",
    "synthetic --task region_to_ocr --region 0,0,2,1": "--region: must be x0,y0,x1,y1 with",
    "synthetic --task region_to_ocr --region 0,0,1": "--region: must be four numbers",
    "synthetic --task ocr --region 0,0,1,1": "--region: ocr takes no region",
    "synthetic --task ocr --every 0s": "--every: must be longer than zero",
    "synthetic --task ocr --every often": "--every: must be a duration such as 500ms, 1s or 5m",
    "synthetic --task ocr --name Gate": "--name: must be a name",
    "synthetic?sed=1 --task ocr": "SOURCE.sed: unknown key (did you mean `seed`?)",
    "rtsp:// --task ocr": "SOURCE.url: is not a URL with a scheme and a host",
    "rtsp://u:s3cretword@h:port/ --task ocr": "SOURCE.url: has a port that is not a number",
    "rstp://u:s3cretword@h/ --task ocr": "SOURCE: unknown scheme `rstp`",
    "missing.mp4 --task ocr": "SOURCE.path: no such file: missing.mp4\n",
    "$NOT_SET/clip.mp4 --task ocr": "SOURCE.path: no such file: $NOT_SET/clip.mp4 ($NOT_SET is not replaced: a config",
    "${X/clip.mp4 --task ocr": "SOURCE.path: no such file: ${X/clip.mp4 ($X is not replaced: a config",
    "missing.mp4 --task ocr --every 1": "SOURCE.path: no such file: missing.mp4\n",
}


@pytest.mark.parametrize("arguments", BAD_WATCH)
def test_watch_errors_name_its_own_options(streamer: Run, arguments: str) -> None:
    code, output, errors = streamer("watch", *arguments.split())
    assert (code, output) == (2, "")
    assert errors.startswith(f"streamer: {BAD_WATCH[arguments]}")
    assert "Traceback" not in errors
    assert "s3cretword" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        "watch synthetic --task ocr --seconds 0",
        "watch synthetic --task ocr --max-events 0",
        "watch synthetic",
        "watch",
        "demo --seconds -1",
        "schema frame",
        "rnu",
    ],
)
def test_wrong_usage_exits_with_2(streamer: Run, arguments: str) -> None:
    code, output, errors = streamer(*arguments.split())
    assert (code, output) == (2, "")
    assert "Usage: " in errors


@pytest.mark.parametrize("command", ["run", "check"])
def test_invalid_config_exits_with_2(streamer: Run, command: str) -> None:
    Path("home.yaml").write_text("streams: {gate: {source: synthetic, tasks: [{task: object_detecton}]}}")
    code, output, errors = streamer(command, "home.yaml")
    assert (code, output) == (2, "")
    assert errors == (
        "streamer: home.yaml:1: streams.gate.tasks[0].task: "
        "unknown task `object_detecton` (did you mean `object_detection`?)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.yaml"], "missing.yaml: no such file or directory"),
        (["check", "missing.yaml"], "missing.yaml: no such file or directory"),
    ],
)
def test_missing_config_exits_with_2(streamer: Run, arguments: list[str], message: str) -> None:
    code, output, errors = streamer(*arguments)
    assert (code, output, errors) == (2, "", f"streamer: {message}\n")


def test_missing_checkpoint_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "watch", "synthetic", "--task", "ocr", "--model", "./no-such-model"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no-such-model" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_schedule_prints_runs_and_rejects_bad_times(streamer: Run) -> None:
    Path("home.yaml").write_text(
        "timezone: UTC\nstreams: {gate: {source: 'rtsp://nowhere/', tasks: [{task: ocr, at: 0 7 * * *}]}}"
    )
    code, output, _ = streamer("schedule", "home.yaml", "--from", "2026-06-01", "--to", "2026-06-02")
    assert code == 0
    assert "Mon 01 Jun 07:00" in output
    code, _, errors = streamer("schedule", "home.yaml", "--from", "soon")
    assert code == 2
    assert "--from: `soon` is not an ISO 8601 time" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rtsp://u:s3cretword@h/x"],
        ["check", "home.yaml", "rtsp://u:s3cretword@h/x"],
        ["run", "--log-level", "rtsp://u:s3cretword@h/x", "home.yaml"],
        ["http://h/x?token=s3cretword"],
    ],
    ids=" ".join,
)
def test_usage_error_hides_secrets_of_its_arguments(streamer: Run, arguments: list[str]) -> None:
    Path("home.yaml").write_text("streams: {gate: {source: synthetic, tasks: [{task: ocr}]}}")
    code, output, errors = streamer(*arguments)
    assert (code, output) == (2, "")
    assert "***" in errors
    assert "s3cretword" not in errors


def test_internal_error_is_one_line_with_an_id(streamer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug with rtsp://u:s3cretword@h/x")

    Path("home.yaml").write_text("streams: {gate: {source: synthetic, tasks: [{task: ocr}]}}")
    monkeypatch.setattr("streamer.cli.shards.load", broken)
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        root.handlers.clear()  # those of pytest: the command has none
        code, output, errors = streamer("check", "home.yaml")
        assert (code, output) == (1, "")
        name = re.fullmatch(
            r"streamer: internal error ([0-9a-f]{6}): `streamer --debug \.\.\.` prints its stack\n", errors
        )
        assert name is not None
        code, output, errors = streamer("--debug", "check", "home.yaml")
        assert (code, output) == (1, "")
        assert f"internal error {name[1]}" in errors
        assert "ZeroDivisionError: a bug with rtsp://***@h/x" in errors
        assert "s3cretword" not in errors
    finally:
        root.handlers[:] = handlers


def test_watch_of_a_file_that_is_no_video_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video")
    done = subprocess.run(
        [sys.executable, "-m", "streamer.cli", "watch", "notes.mp4", "--task", "ocr"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("streamer: cannot read notes.mp4 as a video: ")
    assert "Traceback" not in done.stderr


def test_probe_reports_an_unexpected_error_in_one_line(streamer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug with rtsp://u:s3cretword@h/x")

    monkeypatch.setattr("streamer.capture.sources.Synthetic.open", broken)
    Path("home.yaml").write_text("streams: {gate: {source: synthetic, tasks: [{task: ocr}]}}")
    code, output, errors = streamer("check", "home.yaml", "--probe")
    assert (code, errors) == (1, "")
    assert re.fullmatch(r"gate: internal error [0-9a-f]{6}: the log has the details\n", output)


def test_argument_that_is_no_text_is_refused_in_words(streamer: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_: str | None) -> tuple[str, Path]:
        return "home", Path.cwd()

    monkeypatch.setattr("streamer.cli.rules_commands.find_running", find)
    for arguments in (["arm", "\udcff"], ["snooze", "\udcff"], ["ack", "\udcff"], ["feedback", "\udcff", "right"]):
        code, output, errors = streamer("rules", *arguments)
        assert (code, output, errors) == (2, "", "streamer: `\\udcff` is not text in UTF-8\n")


def test_error_cannot_change_the_terminal(streamer: Run) -> None:
    Path("home.yaml").write_text('streams: {gate: {source: synthetic, tasks: [{task: "\\e[31m\\u202eocr"}]}}')
    code, _, errors = streamer("check", "home.yaml")
    assert code == 2
    assert r"\x1b[31m\u202eocr" in errors
