"""Fixtures: a small checkpoint, a cache for converted models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from tests.support.checkpoints import build_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with widths that OpenVINO survives with ONEDNN_MAX_CPU_ISA=AVX2."""
    return build_checkpoint(tmp_path_factory.mktemp("florence") / "small", scale=2)


@pytest.fixture(scope="session")
def files(checkpoint: Path) -> CheckpointFiles:
    return open_folder(str(checkpoint))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of all tests of a module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CACHE_DIRECTORY", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "streamer" / "openvino"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test."""
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "streamer" / "openvino"
