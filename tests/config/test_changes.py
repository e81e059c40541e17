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


@pytest.mark.parametrize("content", ["", "[{", "5", '[{"what": "pause"}]', '[{"verb": "pause"}]', '{"what": "pause"}'])
def test_damaged_file_is_set_aside_with_a_warning(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "changes.json").write_text(content)
    assert SavedChanges(tmp_path).apply(CONFIG) == CONFIG
    assert (tmp_path / "changes.json.damaged").read_text() == content
    assert "changes.json damaged" in caplog.text
    SavedChanges(tmp_path).add(PAUSE)
    assert SavedChanges(tmp_path).load() == [PAUSE]
