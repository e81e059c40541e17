"""Files that another user can have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer.core.ownership import foreign


def test_own_file_and_folder_are_trusted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch(0o600)
    assert foreign(file) is None
    assert foreign(tmp_path) is None


def test_file_that_a_group_can_write_is_foreign(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    file.chmod(0o660)
    assert "mode 660" in (foreign(file) or "")


def test_link_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/passwd")
    assert "is a link" in (foreign(tmp_path / "a") or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_user_is_foreign(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch(0o600)
    os.chown(file, 1234, 1234)
    assert "belongs to user 1234" in (foreign(file) or "")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        foreign(tmp_path / "a")
