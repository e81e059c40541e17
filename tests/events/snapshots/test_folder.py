"""Files of snapshots: stored, checked against the hash of their event, refused when gone or damaged."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from streamer.core.errors import SnapshotError
from streamer.events.result_data import Snapshot
from streamer.events.snapshots.folder import KEPT_MODE, SnapshotFolder

EVENT = "0123456789abcdef0123456789abcdef"
CONTENT = b"\xff\xd8 a picture"


def snapshot(content: bytes = CONTENT) -> Snapshot:
    return Snapshot(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), width=4, height=3)


def test_stored_snapshot_is_read_back(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    folder.write("gate", EVENT, CONTENT)
    assert folder.read("gate", EVENT, snapshot()) == CONTENT
    assert [path.name for path in (tmp_path / "snapshots" / "gate").iterdir()] == [f"{EVENT}.jpg"]
    assert stat.S_IMODE((tmp_path / "snapshots").stat().st_mode) == 0o700


def test_kept_snapshot_is_read_only_and_young_again(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    folder.write("gate", EVENT, CONTENT)
    file = folder.file("gate", EVENT)
    os.utime(file, (1000, 1000))
    folder.keep("gate", EVENT)
    assert stat.S_IMODE(file.stat().st_mode) == KEPT_MODE
    assert file.stat().st_mtime > 1000
    assert folder.read("gate", EVENT, snapshot()) == CONTENT


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"more"])
def test_changed_file_is_refused_as_damaged(tmp_path: Path, content: bytes) -> None:
    folder = SnapshotFolder(tmp_path)
    folder.write("gate", EVENT, content)
    with pytest.raises(SnapshotError, match="is damaged: its hash is not that of the event"):
        folder.read("gate", EVENT, snapshot())


def test_missing_file_and_missing_snapshot_are_told_apart(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    with pytest.raises(SnapshotError, match="no longer kept"):
        folder.read("gate", EVENT, snapshot())
    with pytest.raises(SnapshotError, match="has no snapshot"):
        folder.read("gate", EVENT, None)


def test_link_pipe_and_folder_are_refused_at_once(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    file = folder.file("gate", EVENT)
    file.parent.mkdir(parents=True)
    (tmp_path / "secret").write_bytes(CONTENT)
    file.symlink_to(tmp_path / "secret")
    with pytest.raises(SnapshotError, match="is unreadable"):
        folder.read("gate", EVENT, snapshot())
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(SnapshotError, match="is unreadable"):
        folder.read("gate", EVENT, snapshot())
    file.unlink()
    file.mkdir()
    with pytest.raises(SnapshotError, match="is unreadable"):
        folder.read("gate", EVENT, snapshot())


@pytest.mark.parametrize(
    ("stream", "event"),
    [
        ("gate", "../" * 8 + "etc/passwd"),
        ("gate", f"../yard/{EVENT}"),
        ("gate", EVENT.upper()),
        ("gate", EVENT[:-1]),
        ("gate", f"{EVENT}\n"),
        ("gate", ""),
        ("..", EVENT),
        ("", EVENT),
        ("gate/../..", EVENT),
        ("gate\0", EVENT),
    ],
)
def test_names_that_no_result_has_reach_no_file(tmp_path: Path, stream: str, event: str) -> None:
    folder = SnapshotFolder(tmp_path)
    with pytest.raises(SnapshotError, match="no snapshot has such a name"):
        folder.read(stream, event, snapshot())
    with pytest.raises(SnapshotError):
        folder.write(stream, event, CONTENT)
    assert not folder.path.exists()
