"""Fixtures: a small random checkpoint, its processor in transformers, and the reference engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import build_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one torch thread: a small model is slower on two, and many times slower when a core is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
