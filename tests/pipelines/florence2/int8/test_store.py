"""The stored int8 model: complete, of this checkpoint, and passed, or not used."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.checkpoint_files import SHIPPED, CheckpointFiles, open_folder
from pipelines.florence2.int8 import store
from streamer.core.errors import ConfigError


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
        "processor": store.processor_key(),
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


def refusal(files: CheckpointFiles) -> str:
    with pytest.raises(ConfigError) as refused:
        find(files)
    assert "streamer model quantize" in str(refused.value)
    return str(refused.value)


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
    assert "its image size or the program has changed" in refusal(dataclasses.replace(files, images=images))


def test_model_compared_on_another_processor_is_not_used(
    files: CheckpointFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(files, folder, caption=True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert "compared on another processor" in refusal(files)


def test_model_without_a_passed_task_is_not_used(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=False)
    assert "no task passed" in refusal(files)


def test_refused_model_replaces_one_that_passed(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    store.write(folder, {}, report(files, caption=False))
    assert "no task passed" in refusal(files)
    assert [path.name for path in folder.iterdir()] == [store.REPORT]


def test_new_model_replaces_the_old_files(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    save(files, folder, ocr=True)
    found = find(files)
    assert found is not None
    assert found.tasks == {"ocr"}
    assert len(list(folder.iterdir())) == 1 + 2 * 2


def test_changed_checkpoint_is_noticed(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    with files.weights[0].open("r+b") as weights:
        weights.seek(-1, 2)
        last = weights.read(1)
        weights.seek(-1, 2)
        weights.write(bytes([last[0] ^ 1]))
    assert "the checkpoint, its image size or the program has changed" in refusal(files)


@pytest.mark.parametrize("name", ["vision", "encoder"])
def test_damaged_model_is_noticed(files: CheckpointFiles, folder: Path, name: str) -> None:
    save(files, folder, caption=True)
    next(folder.glob(f"{name}-*.bin")).write_bytes(b"x")
    assert "is damaged" in refusal(files)


def test_missing_model_is_noticed(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    next(folder.glob("vision-*.xml")).unlink()
    assert "cannot be read: No such file" in refusal(files)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2',
        "[" * 200_000,
        '{"format": 1e999, "key": ' + "9" * 5000 + "}",
        json.dumps({"format": store.FORMAT}),
    ],
    ids=["empty", "list", "object", "cut", "nested", "huge numbers", "half"],
)
def test_damaged_report_is_noticed(files: CheckpointFiles, folder: Path, content: str) -> None:
    save(files, folder, caption=True)
    (folder / store.REPORT).write_text(content)
    refusal(files)


@pytest.mark.parametrize("value", [None, [], {}, 1e308, "x", {"vision": {"../../x.xml": "0"}, "encoder": {}}], ids=str)
@pytest.mark.parametrize("key", ["files", "tasks"])
def test_report_with_a_wrong_value_is_refused(files: CheckpointFiles, folder: Path, key: str, value: Any) -> None:
    save(files, folder, caption=True)
    content = json.loads((folder / store.REPORT).read_text())
    (folder / store.REPORT).write_text(json.dumps({**content, key: value}))
    refusal(files)


@pytest.mark.parametrize("name", ["", store.REPORT, "vision-*.bin"])
def test_files_that_others_can_write_are_refused(files: CheckpointFiles, folder: Path, name: str) -> None:
    save(files, folder, caption=True)
    path = next(folder.glob(name)) if name else folder
    path.chmod(path.stat().st_mode | 0o022)
    assert "can be changed by other users" in refusal(files)


def test_pipe_in_place_of_a_model_is_refused(files: CheckpointFiles, folder: Path) -> None:
    save(files, folder, caption=True)
    path = next(folder.glob("vision-*.bin"))
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in refusal(files)


def test_model_of_another_checkpoint_is_not_found(files: CheckpointFiles, folder: Path, tmp_path: Path) -> None:
    save(files, folder, caption=True)
    assert store.find(None, open_folder(None)) is None
