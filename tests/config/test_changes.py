"""Saved changes of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.config.changes import Change, SavedChanges
from streamer.config.model import from_mapping

CONFIG = from_mapping({"streams": {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}})
PAUSE = Change("pause", "gate", "caption")


def test_saved_change_applies_at_the_next_start(tmp_path: Path) -> None:
    SavedChanges(tmp_path).add(PAUSE)
    assert SavedChanges(tmp_path).apply(CONFIG).streams["gate"].tasks[0].paused


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
