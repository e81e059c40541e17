"""Fixtures: a small random checkpoint, its processor in transformers, and the reference engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import build_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("florence") / "small")


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Any:
    """The checkpoint's processor in transformers."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Any:
    from pipelines.florence2.pipeline import Florence2Settings, open_engine

    return open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=32, engine="plain"))
