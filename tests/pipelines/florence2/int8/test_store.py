"""The stored int8 model: complete, of this checkpoint, and passed, or not used."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.checkpoint_files import SHIPPED, CheckpointFiles, open_folder
from pipelines.florence2.int8 import store


@pytest.fixture
def files(tmp_path: Path) -> CheckpointFiles:
    shutil.copytree(SHIPPED, tmp_path / "mine")
    return open_folder(str(tmp_path / "mine"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: CheckpointFiles) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return store.folder_of(str(files.path))


def report(files: CheckpointFiles, **tasks: bool) -> dict[str, Any]:
    return {
        "key": store.content_key(files),
        "dtype": "float32",
        "tasks": {name: {"passed": passed} for name, passed in tasks.items()},
    }


def save(files: CheckpointFiles, folder: Path, **tasks: bool) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    models = {}
    for name in ("vision", "encoder"):
        models[name] = folder.parent / f"{name}.xml"
        models[name].write_text(f"<{name} {tasks}>")
        models[name].with_suffix(".bin").write_bytes(name.encode())
    store.write(folder, models, report(files, **tasks))


def find(files: CheckpointFiles) -> store.Int8Model | None:
    return store.find(str(files.path), files)


def test_passed_tasks_are_found(files: CheckpointFiles, folder: Path) -> None:
    assert find(files) is None
    save(files, folder, caption=True, ocr=False)
    found = find(files)
    assert found is not None
    assert found.tasks == {"caption"}
    assert found.files["vision"].read_text().startswith("<vision")
    assert found.files["encoder"].with_suffix(".bin").parent == folder


def test_model_of_another_image_size_is_not_used(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    images = dataclasses.replace(files.images, height=384, width=384, tokens=577)
    assert find(dataclasses.replace(files, images=images)) is None


def test_model_without_a_passed_task_is_not_used(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=False)
    assert find(files) is None


def test_refused_model_replaces_one_that_passed(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    store.write(folder, {}, report(files, caption=False))
    assert find(files) is None
    assert [path.name for path in folder.iterdir()] == [store.REPORT]


def test_new_model_replaces_the_old_files(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    save(files, folder, ocr=True)
    found = find(files)
    assert found is not None
    assert found.tasks == {"ocr"}
    assert len(list(folder.iterdir())) == 1 + 2 * 2


def test_changed_checkpoint_is_noticed(files: CheckpointFiles, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(files, folder, caption=True)
    with files.weights[0].open("r+b") as weights:
        weights.seek(-1, 2)
        last = weights.read(1)
        weights.seek(-1, 2)
        weights.write(bytes([last[0] ^ 1]))
    with caplog.at_level(logging.WARNING):
        assert find(files) is None
    assert "the checkpoint, its image size or the program has changed" in caplog.text
    assert "streamer model quantize" in caplog.text


@pytest.mark.parametrize("damaged", ["vision", "encoder", "report", "half", "other"])
def test_damaged_files_are_noticed(
    files: CheckpointFiles, folder: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    save(files, folder, caption=True)
    path = folder / store.REPORT
    if damaged == "report":
        path.write_bytes(path.read_bytes()[:-9])
    elif damaged == "half":
        path.write_text(json.dumps({"format": store.FORMAT}))
    elif damaged == "other":
        path.write_text("[]")
    else:
        next(folder.glob(f"{damaged}-*.bin")).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert find(files) is None
    assert "damaged" in caplog.text


def test_model_of_another_checkpoint_is_not_found(files: CheckpointFiles, folder: Path, tmp_path: Path) -> None:
    save(files, folder, caption=True)
    assert store.find(None, open_folder(None)) is None
