"""Opens the engine of a checkpoint that may have an int8 model. Imports torch only after the engine is open."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.int8 import store
from streamer.core.errors import ConfigError
from streamer.types import Engine

if TYPE_CHECKING:
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.reference_engine import ReferenceEngine


def open_with_int8(
    checkpoint: str | None,
    files: CheckpointFiles,
    is_auto: bool,
    open_engine: Callable[[dict[str, Any]], ReferenceEngine | FastEngine],
) -> Engine:
    """Return the engine, with the tasks that passed in int8 if there is an int8 model that can be used.

    A model that cannot be used is named in the engine's `warnings`. `is_auto`: the config leaves the backend open.
    `open_engine` opens the engine with some changed settings.
    """
    refusal: str | None = None
    found = None
    try:
        found = store.find(checkpoint, files)
    except ConfigError as error:
        refusal = str(error)
    # The int8 model has its own parts in OpenVINO: a second vision tower there would serve the other tasks only.
    is_changed = found is not None and is_auto
    engine = open_engine({"backend": "torch"} if is_changed else {})
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.int8.engine import with_int8

    if not isinstance(engine, FastEngine) or engine.decoder.device.type != "cpu":
        return engine
    if found is not None:
        try:
            return with_int8(engine, found, files)
        except ConfigError as error:
            refusal = str(error)
        if is_changed:
            del engine
            gc.collect()  # frees its memory before the other one is opened
            engine = open_engine({})
    if refusal and isinstance(engine, FastEngine):
        engine.degrade(f"int8 model of {engine.model} is not used: {refusal}")
    return engine
