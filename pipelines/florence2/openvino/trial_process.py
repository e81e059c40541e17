"""The process of a trial: converts a checkpoint, unless the cache has it, compiles its models and runs them.

Reads from standard input what to try. Exit code 0: it ran. 1: it cannot run, and standard output says why.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from pipelines.florence2.fast.memory_budget import is_shortage
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.openvino import cache
from pipelines.florence2.openvino.compiled import Compiled
from pipelines.florence2.openvino.graphs import convert
from pipelines.florence2.pipeline import load_parts
from streamer.core.malloc import large_blocks_freed_at_once, release_unused
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)

PROMPT_LENGTHS = 3, 8, 17
"""Numbers of prompt tokens that are tried: kernels differ for the rest of a row that fills no whole register."""
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Try what standard input says; return the exit code."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    _end_with_parent()
    _be_killed_first()
    try:
        _try(json.load(sys.stdin))
    # OpenVINO raises various exceptions, see `use_openvino`.
    except Exception as error:
        print("not enough memory" if is_shortage(error) else reason_of(error, "OpenVINO"))
        return 1
    return 0


def _try(wanted: Mapping[str, Any]) -> None:
    files = open_folder(wanted["checkpoint"], download=False)
    if files.images.height != wanted["height"]:
        files = files.with_image_size(wanted["height"])
    models = wanted["models"] or _converted(files)
    _run(models, wanted["device"], getattr(torch, wanted["dtype"]), files.images)


def _converted(files: CheckpointFiles) -> Mapping[str, Path]:
    """Return the checkpoint's models in the cache; put them there if necessary."""
    entry = cache.entry_of(files)
    if models := cache.read(entry):
        return models
    with large_blocks_freed_at_once():
        cache.write(entry, convert(*load_parts(files), files.images))
    release_unused()
    return cache.read(entry)


def _run(models: Mapping[str, Path | str], device: str, dtype: torch.dtype, images: ImageSettings) -> None:
    """Run the models on noise: `vision`, and `encoder` if there is one."""
    torch.manual_seed(1)
    states = Compiled(models["vision"], device, dtype)(torch.randn(1, 3, images.height, images.width))
    if "encoder" in models:
        encoder = Compiled(models["encoder"], device, dtype)
        for length in PROMPT_LENGTHS:
            encoder(torch.cat([states, states[:, :length]], 1))


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _be_killed_first() -> None:
    """Have the kernel choose this process when memory is short: without it the agent goes on."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError as error:
        log.debug("memory priority not set: %s", os.strerror(error.errno or 0))


if __name__ == "__main__":
    sys.exit(main())
