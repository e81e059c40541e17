"""Folders for unfinished work: deleted at the end, and after the death of their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.core.work_folder import work_folder

PROGRAM = """
import sys
from pathlib import Path
from streamer.core.work_folder import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_folder_is_deleted_at_the_end(tmp_path: Path) -> None:
    def work() -> None:
        with work_folder(tmp_path) as folder:
            (folder / "part").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_renamed_folder_stays(tmp_path: Path) -> None:
    with work_folder(tmp_path) as folder:
        os.rename(folder, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftover_of_a_killed_process_is_deleted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with work_folder(tmp_path):
            assert (folder / "part").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "other").mkdir()
    with work_folder(tmp_path) as own:
        assert {path.name for path in tmp_path.iterdir()} == {own.name, "other"}
