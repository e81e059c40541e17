"""Replaces vision tower and text encoder of a fast engine by OpenVINO, if its results are right."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.fast.memory_budget import available
from pipelines.florence2.openvino import cache
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.library import openvino
from pipelines.florence2.openvino.self_check import difference
from pipelines.florence2.openvino.trial import Trial
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)

TRIAL_BASE, TRIAL_BYTES = 500_000_000, 6
"""Memory of a trial: bytes in all, and bytes per parameter. Florence-2 base (231 M parameters) took 1.6 GB."""
START_FACTOR = 1.5
"""Memory that OpenVINO takes beside torch, relative to the files of the models. Base took 1.4 in float32, 0.8 in
bfloat16."""


def prepare(checkpoint: Checkpoint, device: str) -> Mapping[str, Path] | str:
    """Return the converted models of a checkpoint by name, or why OpenVINO does not run them.

    What this computer has never run is converted and tried in another process first. Call it before the engine takes
    memory. Raises ConfigError when OpenVINO is not installed.
    """
    openvino()
    try:
        entry = cache.entry_of(checkpoint.files)
    except ConfigError as error:
        return f"its models cannot be kept: {error}"
    trial, models = Trial(entry, device, str(checkpoint.weights.dtype)[6:]), cache.read(entry)
    if not models or trial.verdict() is None:
        needed = TRIAL_BASE + TRIAL_BYTES * checkpoint.architecture.parameters()
        if shortage := _shortage("its trial", needed):
            return shortage
    if refusal := trial.refusal(checkpoint.files, again=not models):
        return refusal
    return models or cache.read(entry) or f"its models in {entry} are damaged"


def use_openvino(engine: FastEngine, device: str, prepared: Mapping[str, Path] | str) -> None:
    """Run the engine's vision tower and encoder on an OpenVINO device (CPU, GPU, NPU) if their results are right there.

    `prepared` is the result of `prepare`. If OpenVINO cannot run the models, or their results differ too much from
    those of torch, the engine stays as it is and it reports why.
    """
    version = openvino().__version__.split("-")[0]
    reason: str | None
    try:
        reason = prepared if isinstance(prepared, str) else _replace(engine, prepared, device)
    # OpenVINO raises various exceptions: for a missing device, an unknown operation, a number type it does not have.
    except Exception as error:
        reason = f"it does not run the model, {reason_of(error, 'OpenVINO')}"
    if reason:
        engine.degrade(f"OpenVINO on {device} is not used: {reason}; torch runs the whole model")
    else:
        engine.description += f"; vision tower and text encoder through OpenVINO {version} on {device}"
        log.info("OpenVINO %s on %s: results agree with torch", version, device)


def _replace(engine: FastEngine, models: Mapping[str, Path], device: str) -> str | None:
    """Replace both parts of the engine; return why not, or None."""
    if shortage := _shortage(
        "it", START_FACTOR * sum(path.with_suffix(".bin").stat().st_size for path in models.values())
    ):
        return shortage
    dtype = engine.decoder.dtype
    vision = OpenVINOVision(models["vision"], device, engine.image_cache.vision, dtype)
    encoder = OpenVINOEncoder(models["encoder"], device, engine.encoder, dtype)
    if reason := difference(engine, vision, encoder):
        return reason
    engine.image_cache.vision, engine.encoder = vision, encoder
    engine.image_cache.clear()
    return None


def _shortage(what: str, needed: float) -> str | None:
    """Return that `what` needs more memory than is free, or None."""
    free = available(torch.device("cpu"))
    return None if free >= needed else f"{what} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
