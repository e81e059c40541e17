"""`streamer top` beside a running agent, printed once and drawn in a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamer.cli.top_screen import rate, table
from streamer.events.ledger.query import LedgerQuery
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from tests.support.agents import RunningAgent
from tests.support.ports import free_port

COMMAND = (sys.executable, "-m", "streamer.cli", "top")


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}


def once(folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [*COMMAND, "--once"], env=environment(folder), capture_output=True, text=True, timeout=200, cwd=folder
    )
    return done.returncode, done.stdout, done.stderr


def read_until(terminal: int, what: str, timeout: float) -> str:
    seen, until = b"", time.monotonic() + timeout
    while what not in seen.decode(errors="replace"):
        left = until - time.monotonic()
        assert left > 0, seen
        if select.select([terminal], [], [], left)[0]:
            seen += os.read(terminal, 1 << 16)
    return seen.decode(errors="replace")


def row(output: str, name: str) -> str:
    (found,) = [line for line in output.splitlines() if line.strip().startswith(f"{name} ")]
    return found.rstrip()


def _enable_sigint() -> None:
    """Undo the ignored SIGINT that child processes of a background shell inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_top_shows_a_running_agent(tmp_path: Path) -> None:
    config = tmp_path / "home.yaml"
    config.write_text(f"""
agent: home
streams:
  gate:
    source: synthetic?seed=3&fps=10
    tasks:
      - {{task: caption, every: 500ms, priority: high}}
      - {{task: ocr, every: 1h, name: plates, paused: true}}
  away:
    source: rtsp://127.0.0.1:{free_port()}/cam
    tasks: [{{task: caption, name: sky}}]
sinks: [{{kind: jsonl, path: {tmp_path}/events.jsonl}}]
""")
    assert once(tmp_path) == (2, "", "streamer: no agent is running: start one with `streamer run`\n")
    with RunningAgent(tmp_path, ["run", str(config)], tmp_path / "events.jsonl") as agent:
        agent.wait_for_results(3, 60)
        code, output, errors = once(tmp_path)
        assert (code, errors) == (0, "")
        assert "home  2 streams, 3 tasks" in output
        assert re.search(r"^gate +live +\d+\.\d/s +\d\.\d\d s", row(output, "gate"))
        assert re.search(r"^  caption \(high\) +ok +\d\.\d\d/s +\d+\.\d\d s .* every 0\.5 s$", row(output, "caption"))
        assert re.search(r"^  plates +- +paused, else every 3600 s$", row(output, "plates"))
        assert re.search(r"^away +down .*connection refused", row(output, "away"))
        assert output.index("away") < output.index("gate"), "streams that are not live come first"

        ours, theirs = pty.openpty()
        with subprocess.Popen(
            COMMAND, env=environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_enable_sigint
        ) as top:
            os.close(theirs)
            read_until(ours, "paused, else every 3600 s", 60)
            asked = [sys.executable, "-m", "streamer.cli", "task", "resume", "gate", "plates"]
            subprocess.run(asked, env=environment(tmp_path), check=True, timeout=200, capture_output=True)
            assert re.search(r"plates[^\n]* every 3600 s", read_until(ours, "\x1b[2mevery 3600 s", 60))
            top.send_signal(signal.SIGINT)
            read_until(ours, "\x1b[?1049l", 60)  # terminal restored; `top` would block on unread output
            assert top.wait(60) == 130
        os.close(ours)
        agent.stop()


def test_table_shows_device_stretch_and_drops(tmp_path: Path) -> None:
    events, capture = EventFollower(LedgerQuery(tmp_path / "ledger.db")), CapturePoller(tmp_path, ["gate"])
    events._stretches[None] = {"gate": {"low": 2.5}}
    events.counts["gate", "sky", "stale"] = 3
    tasks = [
        {"name": name, "task": "caption", "often": "every 1 s", "priority": priority}
        for name, priority in (("sky", "low"), ("door", "high"))
    ]
    drawn = table({"agent": "home", "streams": {"gate": tasks}, "devices": {"gate": "cuda:1"}}, capture, events)
    cells = [[str(cell) for cell in column.cells] for column in drawn.columns]
    assert cells[5] == ["cuda:1", "", ""], "the device of the stream"
    assert cells[6] == ["", "2.5x", ""]
    assert cells[7] == ["", "stale 3", ""]


@pytest.mark.parametrize(
    ("answers", "now", "expected"),
    [
        ([], 5.0, ""),
        ([0.0, 1.0, 2.0], 2.5, "1.00/s"),
        ([0.0, 1.0, 2.0], 30.0, "0.10/s"),
        ([0.0, 60.0, 120.0], 125.0, "1.00/min"),
    ],
)
def test_rate_falls_when_answers_are_overdue(answers: list[float], now: float, expected: str) -> None:
    assert rate(answers, now) == expected
