"""A small random checkpoint, and what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import build


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a model is slower on two threads, and many times slower where another process has one of the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("florence") / "small")


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Any:
    """The library's own processor."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Any:
    from pipelines.florence2.pipeline import Florence2Settings, pipeline

    return pipeline.open(Florence2Settings(checkpoint=str(checkpoint), device="cpu", max_batch=32, engine="plain"))
