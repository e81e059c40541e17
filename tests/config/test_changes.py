"""Saved changes of tasks."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from streamer.config.changes import Change, SavedChanges
from streamer.config.model import from_mapping

CONFIG = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}})
PAUSE = Change("pause", "gate", "caption")


def test_saved_change_applies_at_the_next_start(tmp_path: Path) -> None:
    SavedChanges(tmp_path).add(PAUSE)
    assert SavedChanges(tmp_path).apply(CONFIG).streams["gate"].tasks[0].paused


def test_skipped_changes_do_not_count_as_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changes = SavedChanges(tmp_path)
    changes.add(Change("pause", "gate", "gone"))
    changes.apply(CONFIG)
    assert "saved change skipped" in caplog.text
    assert "applied" not in caplog.text
    changes.add(PAUSE)
    changes.apply(CONFIG)
    assert "1 saved task change applied from" in caplog.text


DAMAGED = {
    "empty": "",
    "half": '[{"what": "pause", "stream": "ga',
    "garbage": "\x00\x01\ufffd",
    "number": "5",
    "mapping": '{"what": "pause"}',
    "missing-keys": '[{"what": "pause"}]',
    "unknown-change": '[{"what": "explode", "stream": "gate", "name": "caption"}]',
    "list-as-name": '[{"what": "pause", "stream": [], "name": "caption"}]',
    "text-as-task": '[{"what": "add", "stream": "gate", "name": "x", "task": "ocr"}]',
    "nested": "[" * 10_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_set_aside_with_a_warning(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "changes.json").write_text(content)
    assert SavedChanges(tmp_path).apply(CONFIG) == CONFIG
    assert (tmp_path / "changes.json.damaged").read_text() == content
    assert "changes.json damaged" in caplog.text
    SavedChanges(tmp_path).add(PAUSE)
    assert SavedChanges(tmp_path).load() == [PAUSE]


def test_unreadable_file_is_set_aside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "changes.json").mkdir()
    assert SavedChanges(tmp_path).apply(CONFIG) == CONFIG
    assert (tmp_path / "changes.json.damaged").is_dir()
    assert "changes.json unreadable (Is a directory): moved to" in caplog.text
    SavedChanges(tmp_path).add(PAUSE)
    assert SavedChanges(tmp_path).load() == [PAUSE]


@pytest.mark.parametrize("damaged", [True, False])
def test_agent_starts_if_a_bad_file_cannot_be_moved(
    tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(self: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "replace", read_only)
    file = tmp_path / "changes.json"
    if damaged:
        file.write_text("[")
    else:
        file.mkdir()
    assert SavedChanges(tmp_path).apply(CONFIG) == CONFIG
    assert file.exists()
    assert "(Read-only file system), saved task changes not applied" in caplog.text
