"""The cache of converted models: used when whole and right, made again otherwise."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from pipelines.florence2.openvino import cache
from pipelines.florence2.openvino.graphs import convert
from pipelines.florence2.pipeline import load_parts
from streamer.core.errors import ConfigError

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

Models = list[tuple[str, Any]]


@pytest.fixture(scope="module")
def models(files: CheckpointFiles) -> Models:
    return list(convert(*load_parts(files), files.images))


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no list", "bad list"])
def test_damaged_models_are_deleted(
    damage: str, files: CheckpointFiles, models: Models, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(cache.log, "warning", lambda text, *values: logged.append(text % values))
    entry = cache.entry_of(files)
    cache.write(entry, models)
    assert cache.read(entry).keys() == {"vision", "encoder"}
    weights, hashes = entry / "vision.bin", entry / "hashes.json"
    whole = weights.read_bytes()
    match damage:
        case "truncated":
            os.truncate(weights, len(whole) // 2)
        case "changed":
            weights.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
        case "missing":
            weights.unlink()
        case "no list":
            hashes.unlink()
        case "bad list":
            hashes.write_text("[]")
    assert cache.read(entry) == {}
    assert not entry.exists()
    assert logged == [f"OpenVINO: cache {entry} is damaged: it is made again"]


def test_changed_checkpoint_has_another_entry(checkpoint: Path, own_cache: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    weights = copy / "model.safetensors"
    entry = cache.entry_of(open_folder(str(copy)))
    assert entry == cache.entry_of(open_folder(str(checkpoint)))
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.entry_of(open_folder(str(copy))) != entry


def test_only_newest_entries_stay(files: CheckpointFiles, models: Models, own_cache: Path) -> None:
    entry = cache.entry_of(files)
    assert own_cache.stat().st_mode & 0o777 == 0o700
    for index in range(cache.MAX_ENTRIES + 1):
        (own_cache / f"old{index}").mkdir()
        (own_cache / f"old{index}-verdict.json").touch()
        os.utime(own_cache / f"old{index}", (index, index))
    cache.write(entry, models)
    kept = [name for index in range(2, cache.MAX_ENTRIES + 1) for name in (f"old{index}", f"old{index}-verdict.json")]
    assert {path.name for path in own_cache.iterdir()} == {entry.name, *kept}


@pytest.mark.parametrize("name", ["", "hashes.json", "vision.bin"])
def test_entry_that_others_can_write_is_made_again(
    name: str, files: CheckpointFiles, models: Models, own_cache: Path
) -> None:
    entry = cache.entry_of(files)
    before = os.umask(0)
    try:
        cache.write(entry, models)
    finally:
        os.umask(before)
    assert cache.read(entry)
    path = entry / name
    path.chmod(path.stat().st_mode | 0o020)
    assert cache.read(entry) == {}
    assert not entry.exists()


def test_cache_that_others_can_write_is_not_used(files: CheckpointFiles, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    with pytest.raises(ConfigError, match="can be changed by other users"):
        cache.entry_of(files)


def test_unwritable_folder_is_named(
    files: CheckpointFiles, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"^{tmp_path}/file cannot be written: Not a directory"):
        cache.write(tmp_path / "file" / "entry", models)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=f"^{tmp_path}/file/openvino cannot be written: Not a directory"):
        cache.entry_of(files)
