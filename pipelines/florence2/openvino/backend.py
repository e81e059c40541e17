"""Replaces vision tower and text encoder of a fast engine by OpenVINO, if its results are right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.openvino import cache
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.graphs import trace_encoder, trace_vision
from pipelines.florence2.openvino.library import openvino
from pipelines.florence2.openvino.self_check import difference
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)


def convert(vision: DaViT, encoder: Encoder, images: ImageSettings) -> dict[str, Any]:
    """Return the `openvino.Model` of each part by name: `vision` and `encoder`. Both parts must be float32."""
    models = {}
    log.info("OpenVINO: converting the vision tower")
    models["vision"] = trace_vision(vision, images.height, images.width)
    log.info("OpenVINO: converting the text encoder")
    models["encoder"] = trace_encoder(encoder, vision.tokens)
    return models


def use_openvino(
    engine: FastEngine, files: CheckpointFiles, device: str, load_parts: Callable[[], tuple[DaViT, Encoder]]
) -> None:
    """Run the engine's vision tower and encoder on an OpenVINO device (CPU, GPU, NPU) if their results are right there.

    `load_parts` returns both parts of the checkpoint in float32; it is called only when they must be converted. If
    OpenVINO cannot run them, or their results differ too much from those of torch, the engine stays as it is and its
    `warnings` say why. Raises ConfigError when OpenVINO is not installed.
    """
    version = openvino().__version__.split("-")[0]
    reason: str | None
    try:
        models = cache.converted(files, lambda: convert(*load_parts(), files.images))
        reason = _replace(engine, models, device)
    # OpenVINO raises various exceptions: for a missing device, an unknown operation, a number type it does not have.
    except Exception as error:
        reason = f"it does not run the model, {reason_of(error, 'OpenVINO')}"
    if reason:
        engine.warnings.append(f"OpenVINO on {device} is not used: {reason}; torch runs the whole model")
        log.warning("%s", engine.warnings[-1])
    else:
        engine.description += f"; vision tower and text encoder through OpenVINO {version} on {device}"
        log.info("OpenVINO %s on %s: results agree with torch", version, device)


def _replace(engine: FastEngine, models: Mapping[str, Any], device: str) -> str | None:
    """Replace both parts of the engine; return why not, or None."""
    dtype = engine.decoder.dtype
    vision = OpenVINOVision(models["vision"], device, engine.image_cache.vision, dtype)
    encoder = OpenVINOEncoder(models["encoder"], device, engine.encoder, dtype)
    if reason := difference(engine, vision, encoder):
        return reason
    engine.image_cache.vision, engine.encoder = vision, encoder
    engine.image_cache.clear()
    return None
