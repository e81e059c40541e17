"""The Florence-2 pipeline, as the program finds it through its entry point. torch is imported by `open` only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipelines.folder import open_folder
from pipelines.tasks import SPECS
from streamer.settings import Settings
from streamer.types import Engine, TaskSpec


class Florence2Settings(Settings):
    """The config's `model:` block."""

    checkpoint: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """A folder, or a hub name such as florence-community/Florence-2-base-ft; left out: the small shipped model."""
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 for a small model on a CPU, else bfloat16."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Jobs that run together at most."""


class Florence2:
    """The `streamer.types.Pipeline` of Florence-2."""

    settings: type[Florence2Settings] = Florence2Settings

    def tasks(self) -> Mapping[str, TaskSpec]:
        return SPECS

    def open(self, settings: Florence2Settings) -> Engine:
        """Load and warm up. Raises ConfigError when the checkpoint or device cannot be used."""
        # Waiting OpenMP threads must sleep: when they spin next to other busy processes, torch slows down many times.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        folder = open_folder(settings.checkpoint)
        from pipelines.checkpoint import load
        from pipelines.plain import PlainEngine

        engine = PlainEngine(load(folder, settings.device, settings.dtype), settings.max_batch)
        engine.warm_up()
        return engine


pipeline = Florence2()
