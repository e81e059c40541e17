"""The table of `streamer bench --device`: each model beside transformers and beside the limits of the card."""

from __future__ import annotations

import gc
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipelines.florence2.card import card_of
from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from pipelines.florence2.fast.memory_budget import limit
from pipelines.florence2.pipeline import open_engine
from pipelines.florence2.processor import Processor, warm_up_job
from pipelines.florence2.speed.comparison import HEADER, Limits, Row, forced, our_side, ratios, rows, transformers_side
from pipelines.florence2.speed.floors import PEAKS, work
from pipelines.florence2.speed.launches import describe
from pipelines.florence2.speed.random_checkpoint import SIZES, save_random
from streamer.core import nvidia
from streamer.core.reasons import reason_of

if TYPE_CHECKING:
    from pipelines.florence2.pipeline import Florence2Settings

FRAMES = 128
"""Largest batch on a card."""
CPU_FRAMES = 8
"""Largest batch on a CPU, where a larger one is not faster."""
MAX_BATCH = 256
"""Jobs at a time of our engine on a card: the most that a config may ask for."""
ANSWER = 40
"""Tokens of an average answer, for the bytes that a step reads."""


def compare(settings: Florence2Settings, seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure the model of `settings`, or without a checkpoint both published sizes with random weights.

    `tell` gets the table line by line. Return it as values for JSON.
    """
    measured = {}
    for name, files in _models(settings, tell):
        measured[name] = _model(name, files, settings, seconds, tell)
    return measured


def _models(settings: Florence2Settings, tell: Callable[[str], None]) -> Iterator[tuple[str, CheckpointFiles]]:
    if settings.checkpoint is not None:
        files = open_folder(settings.checkpoint)
        yield files.name, files
        return
    for size in SIZES:
        tell(f"making Florence-2 {size} with random weights")
        with tempfile.TemporaryDirectory() as folder:
            save_random(size, Path(folder) / size)
            yield f"{size}, random weights", open_folder(str(Path(folder) / size))


def _model(
    name: str, files: CheckpointFiles, settings: Florence2Settings, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure one model: transformers first, so that both are never in memory together."""
    files = replace(files.with_image_size(settings.image_size), generation=forced(files.generation))
    checkpoint = load(files, settings.one_device, settings.dtype)
    device = checkpoint.weights.device
    limit(device, settings.gpu_memory)  # for both sides
    card, is_cpu = card_of(device), device.type == "cpu"
    prompt, _ = Processor(checkpoint).encode(warm_up_job())
    count = work(checkpoint.architecture, files.images.height, files.images.width, len(prompt), ANSWER)
    peak = PEAKS.get(card.name) if card else None
    limits = Limits(seconds, CPU_FRAMES if is_cpu else FRAMES, peak)
    machine = describe_machine(device)
    tell(f"\n{name} on {', '.join(f'{key} {value}' for key, value in machine.items())}")
    if peak is None:
        tell("floors unknown: no peak figures for this device")
    try:
        launches = describe(checkpoint, tell)
    except Exception as error:  # tensors without data depend on torch's version, and the measurement does not
        launches = {}
        tell(f"operations not counted: {reason_of(error, 'bench: operations')}")
    tell(HEADER)
    found: list[Row] = []
    with _released():
        for row in rows("transformers", transformers_side(checkpoint), count, limits):
            tell(str(row))
            found.append(row)
    del checkpoint
    jobs = max(settings.max_batch, 3 * CPU_FRAMES) if is_cpu else MAX_BATCH
    with _released():
        engine = open_engine(settings.model_copy(update={"drafts": "off", "max_batch": jobs}), files)
        description, warnings = engine.description, list(engine.warnings)
        for row in rows("streamer", our_side(engine), count, limits):
            tell(str(row))
            found.append(row)
        del engine
    tell(f"engine: {description}")
    for warning in warnings:
        tell(f"warning: {warning}")
    times = ratios(found)
    for tasks, values in times.items():
        cells = ", ".join(f"{kind} {value:.2f}" for kind, value in values.items())
        tell(f"{tasks}, answers per second relative to transformers: {cells}")
    return {
        "machine": machine,
        "engine": description,
        "warnings": warnings,
        "launches": launches,
        "rows": [asdict(row) for row in found],
        "ratios": times,
    }


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return the card or processor, driver and libraries that a measurement ran with."""
    card = card_of(device)
    if card is None:
        found = {"device": f"{device}, {torch.get_num_threads()} threads", "processor": _processor()}
    else:
        found = {"device": str(device), "card": str(card), "driver": nvidia.driver_version() or "unknown"}
        found["CUDA"] = str(torch.version.cuda)
    return {**found, "torch": torch.__version__, "transformers": version("transformers")}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@contextmanager
def _released() -> Iterator[None]:
    """Free the memory of a model that was used inside: its parts refer to each other."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
