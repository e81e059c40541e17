"""Task lists from the inference process: an invalid one changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.bus.result_feed import TaskList
from streamer.config.model import from_mapping
from streamer.web.monitor.task_list import TaskLists
from tests.support.capturing import STREAM
from tests.support.web_process import CONFIG


@pytest.mark.parametrize(
    ("stream", "tasks"),
    [(STREAM, 5), (STREAM, None), (STREAM, [5]), (STREAM, [{"task": "none"}]), (STREAM, []), ("other", []), ("", {})],
)
def test_invalid_task_list_changes_nothing(tmp_path: Path, stream: str, tasks: Any) -> None:
    lists = TaskLists(tmp_path, from_mapping(CONFIG))
    before = dict(lists.by_stream)
    lists._replace(TaskList(stream, tasks))
    assert lists.by_stream == before
    lists._replace(TaskList(STREAM, [{"task": "ocr"}]))
    assert [task["name"] for task in lists.by_stream[STREAM]] == ["ocr"]
    lists.close()
