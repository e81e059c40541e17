"""The trial of OpenVINO in a process of its own: what is kept, what is tried again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.openvino import cache, instructions, trial
from pipelines.florence2.openvino.trial import Trial, Verdict
from tests.support.agents import is_alive, until

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

PARENT = """
import subprocess, sys
from pipelines.florence2.openvino import trial
child = subprocess.Popen(trial.COMMAND, stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""
KILL = "os.kill(os.getpid(), signal.{})"


def program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let a program stand for the process of a trial."""
    monkeypatch.setattr(trial, "COMMAND", (sys.executable, "-c", f"import os, signal, sys, time\n{text}"))


@pytest.mark.parametrize(
    ("text", "refusal", "is_kept"),
    [
        ("pass", None, True),
        (KILL.format("SIGSEGV"), "its trial crashed (SIGSEGV)", True),
        (KILL.format("SIGILL"), "its trial crashed (SIGILL)", True),
        ("time.sleep(60)", "its trial did not end within 0.5 s", True),
        (KILL.format("SIGTERM"), "its trial was ended by SIGTERM", False),
        (KILL.format("SIGKILL"), "its trial was ended by SIGKILL", False),
        ("print('not enough memory'); sys.exit(1)", "its trial failed, not enough memory", False),
        ("sys.exit(3)", "its trial failed, exit code 3", False),
    ],
)  # fmt: skip
def test_only_verdicts_on_openvino_are_kept(
    text: str, refusal: str | None, is_kept: bool, files: CheckpointFiles, own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program(monkeypatch, text)
    if "sleep" in text:
        monkeypatch.setattr(trial, "LIMIT_S", 0.5)
    tried = Trial(cache.entry_of(files), "CPU", "float32")
    assert tried.verdict() is None
    assert tried.refusal(files) == refusal
    assert tried.verdict() == (Verdict(refusal) if is_kept else None)


def test_verdict_holds_for_equal_conditions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {Trial(tmp_path / name, device, dtype).file
             for name in "ab" for device in ("CPU", "GPU") for dtype in ("float32", "bfloat16")}  # fmt: skip
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    found.add(Trial(tmp_path / "a", "CPU", "float32").file)
    monkeypatch.setattr(instructions, "processor", lambda: "another one")
    found.add(Trial(tmp_path / "a", "CPU", "float32").file)
    assert len(found) == 10
    assert Trial(tmp_path / "a", "CPU", "float32").file in found


@pytest.mark.parametrize("content", ["", "[]", "{}", "null"])
def test_damaged_verdict_counts_as_none(content: str, tmp_path: Path) -> None:
    tried = Trial(tmp_path / "entry", "CPU", "float32")
    tried.file.write_text(content)
    assert tried.verdict() is None


def test_unwritable_verdict_is_no_failure(
    files: CheckpointFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    program(monkeypatch, "pass")
    assert Trial(tmp_path / "file" / "entry", "CPU", "float32").refusal(files) is None


def test_trial_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    adjusted = Path(f"/proc/{child}/oom_score_adj")
    until(lambda: adjusted.read_text().strip() == "1000", 30, "the trial has started")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_alive(child), 5, "the trial has ended")
