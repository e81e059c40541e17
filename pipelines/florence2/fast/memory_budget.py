"""How much memory the fast engine will take, said before it takes any, and how many rows fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decode_batch import FIRST_ROOM, PROMPT_ROOM
from pipelines.florence2.fast.decoder import Decoder
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

MARGIN = 0.9
"""Share of the free memory that is used at most."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes the engine takes on top of what is loaded already."""

    row: int
    """One answer being written, at its longest."""
    work: int
    """What is alive in the largest step, whatever the number of rows."""

    def rows(self, free: int) -> int:
        """How many rows `free` bytes hold."""
        return int((free * MARGIN - self.work) // self.row)

    def total(self, rows: int) -> int:
        return self.work + rows * self.row


def forecast(decoder: Decoder, vision: DaViT, config: Any, answer: int, beams: int, frames: int, kept: int) -> Forecast:
    """What it takes when every answer is searched with `beams`, as the quality `official` may ask for.

    `answer` is the longest answer in tokens, `frames` go through the vision tower together, `kept` stay cached.
    """
    size = decoder.dtype.itemsize
    text = config.text_config
    place = 2 * decoder.depth * decoder.heads * decoder.width * size
    source = vision.tokens + PROMPT_ROOM
    # Growing a cache holds the old one until the new one is filled. All beams share what they see of the picture.
    own = 2 * beams * (answer + FIRST_ROOM) * place
    logits = 3 * 4 * beams * decoder.vocabulary
    look = frames * vision.peak * size
    read = source * (4 * text.d_model + 2 * text.encoder_ffn_dim) * size
    return Forecast(row=own + source * place + logits, work=look + read + kept * vision.tokens * text.d_model * size)


def fit(wanted: int, name: str, needs: Forecast, device: torch.device) -> int:
    """At most `wanted` rows, fewer where memory is short. Raises ConfigError when not even one fits."""
    free = available(device)
    rows = min(wanted, needs.rows(free))
    if rows < 1:
        raise ConfigError(
            f"checkpoint {name} needs {_gb(needs.total(1))} more memory for one answer at a time, "
            f"and {_gb(free)} are free on {device}"
        )
    if rows < wanted:
        log.warning("memory is short: %d answers at a time instead of %d", rows, wanted)
    log.info("up to %d answers at a time, %s of %s", rows, _gb(needs.total(rows)), _gb(free))
    return rows


def available(device: torch.device) -> int:
    """Bytes that can still be taken on `device`."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        most, used = ((_CGROUP / file).read_text().strip() for file in ("memory.max", "memory.current"))
        return free if most == "max" else min(free, int(most) - int(used))
    except OSError:  # Not in a control group of its own.
        return free


def is_shortage(error: BaseException) -> bool:
    """Whether the allocator gave up; on a CPU torch has no error class for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
