"""The Florence-2 pipeline, as the program finds it through its entry point. torch is imported by `open` only."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.cost_table import shipped
from pipelines.florence2.prompts import excess, prompt
from pipelines.florence2.tasks import SPECS, Parameters
from streamer.core.errors import ConfigError
from streamer.core.settings import Settings
from streamer.types import Costs, Engine, TaskSpec

if TYPE_CHECKING:
    from pipelines.florence2.checkpoint import Checkpoint
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.reference_engine import ReferenceEngine

log = logging.getLogger(__name__)


SHORT = 100
"""Characters of a prompt that every checkpoint of others takes."""


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
    engine: Literal["auto", "plain", "fast"] = "auto"
    """auto: fast where the checkpoint allows it. plain: the reference, transformers' own generate."""
    drafts: bool = True
    """Let the fast engine guess from a camera's previous answer; never changes an answer."""


class Florence2:
    """The `streamer.types.Pipeline` of Florence-2."""

    settings: type[Florence2Settings] = Florence2Settings

    def tasks(self) -> Mapping[str, TaskSpec]:
        return SPECS

    def refuse(self, settings: Florence2Settings, task: str, params: Parameters) -> str | None:
        question = prompt(task, params)
        if settings.checkpoint is not None and len(question) < SHORT:
            return None
        try:
            return excess(open_folder(settings.checkpoint, download=False), question)
        except ConfigError:
            return None  # Not here yet, or not sound, which `open` says.

    def costs(self, settings: Florence2Settings) -> Costs:
        return shipped(settings.checkpoint)

    def open(self, settings: Florence2Settings) -> Engine:
        """Load and warm up. Raises ConfigError when the checkpoint or device cannot be used."""
        # Waiting OpenMP threads must sleep: when they spin next to other busy processes, torch slows down many times.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        folder = open_folder(settings.checkpoint)
        from pipelines.florence2.checkpoint import load

        checkpoint = load(folder, settings.device, settings.dtype)
        engine = _plain(checkpoint, settings) if _wants_plain(checkpoint, settings) else _fast(checkpoint, settings)
        engine.warm_up()
        return engine


def _wants_plain(checkpoint: Checkpoint, settings: Florence2Settings) -> bool:
    from pipelines.florence2.fast.logits import effective, unsupported

    if settings.engine == "plain":
        return True
    strange = unsupported(effective(checkpoint))
    if strange and settings.engine == "fast":
        raise ConfigError(
            f"checkpoint {checkpoint.name} asks for {', '.join(strange)} in its generation settings, which the fast "
            "engine does not know: use `engine: plain`"
        )
    if strange:
        log.warning("the plain engine is used: the fast one does not know %s", ", ".join(strange))
    return bool(strange)


def _plain(checkpoint: Checkpoint, settings: Florence2Settings) -> ReferenceEngine:
    from pipelines.florence2.reference_engine import ReferenceEngine

    return ReferenceEngine(checkpoint, settings.max_batch)


def _fast(checkpoint: Checkpoint, settings: Florence2Settings) -> FastEngine:
    from pipelines.florence2.fast.engine import FastEngine

    return FastEngine(checkpoint, settings.max_batch, settings.drafts)


pipeline = Florence2()
