"""Measured device seconds per answer, the estimate for a computer on which `streamer bench` has not run yet."""

from __future__ import annotations

import re

from streamer.types import Costs

_MACHINE = "AMD EPYC, 2 cores, no GPU"
_TINY = {
    "caption": 0.042,
    "detailed_caption": 0.063,
    "more_detailed_caption": 0.072,
    "object_detection": 0.053,
    "dense_region_caption": 0.057,
    "region_proposal": 0.045,
    "phrase_grounding": 0.044,
    "referring_segmentation": 0.049,
    "region_to_segmentation": 0.057,
    "open_vocabulary_detection": 0.038,
    "region_to_category": 0.042,
    "region_to_description": 0.042,
    "region_to_ocr": 0.045,
    "ocr": 0.04,
    "ocr_with_region": 0.048,
}
"""Seconds per answer of the shipped model, from `benchmarks/results/accuracy.json`."""
_BASE = {"caption": 1.82, "object_detection": 2.98}
"""Seconds per answer of Florence-2 base with one camera, from `benchmarks/results/engine.json`."""
_TINY_SIDE, _BASE_SIDE = 192, 768
"""Image sizes of the measurements, in pixels."""


def shipped_costs(checkpoint: str | None, image_size: int | None) -> Costs:
    """Return the measured costs of the model; none were measured for the large model or for another image size."""
    if checkpoint is None:
        return Costs(_MACHINE, _TINY if image_size in (None, _TINY_SIDE) else {})
    is_base = re.search(r"florence-2-base(-ft)?$", checkpoint, re.IGNORECASE)
    return Costs(_MACHINE, _BASE if is_base and image_size in (None, _BASE_SIDE) else {})
