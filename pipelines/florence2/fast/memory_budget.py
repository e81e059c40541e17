"""Memory estimate of the fast engine before it allocates, and the number of rows that fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.florence2.architecture import Text
from pipelines.florence2.fast.decode_batch import FIRST_ROOM, PROMPT_ROOM
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.parts import Vision
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

MARGIN = 0.9
"""Maximum share of the free memory that the engine may use."""
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Forecast:
    """Estimated bytes, on top of the loaded checkpoint."""

    row: int
    """Bytes of one answer at its maximum length."""
    work: int
    """Bytes of the largest step, independent of the number of rows."""

    def rows(self, free: int) -> int:
        """Return the number of rows that fit into `free` bytes."""
        return int((free * MARGIN - self.work) // self.row)

    def total(self, rows: int) -> int:
        return self.work + rows * self.row


def forecast(
    decoder: Decoder, vision: Vision, text: Text, answer: int, beams: int, frames: int, cached: int
) -> Forecast:
    """Estimate the memory when every answer uses beam search with `beams`, as the quality `official` may.

    `answer` is the longest answer in tokens, `frames` run through the vision tower together, `cached` stay cached.
    """
    size = decoder.dtype.itemsize
    position = 2 * decoder.depth * decoder.heads * decoder.width * size
    source = vision.tokens + PROMPT_ROOM
    # A cache that grows exists twice until it is copied. All beams of an answer share one cross cache.
    own = 2 * beams * (answer + FIRST_ROOM) * position
    logits = 3 * 4 * beams * decoder.vocabulary
    vision_bytes = frames * vision.peak * size
    encoder_bytes = source * (4 * text.d_model + 2 * text.encoder_ffn_dim) * size
    work = vision_bytes + encoder_bytes + cached * vision.tokens * text.d_model * size
    return Forecast(row=own + source * position + logits, work=work)


def fit(max_batch: int, name: str, needs: Forecast, device: torch.device) -> int:
    """Return `max_batch` rows, or fewer when memory is short. Raises ConfigError when not even one fits."""
    free = available(device)
    rows = min(max_batch, needs.rows(free))
    if rows < 1:
        raise ConfigError(
            f"checkpoint {name} needs {_gb(needs.total(1))} more memory for one answer at a time, "
            f"but {device} has {_gb(free)} free: use a smaller checkpoint or free memory"
        )
    if rows < max_batch:
        log.warning("memory on %s is short: %d answers at a time instead of %d", device, rows, max_batch)
    log.info("up to %d answers at a time, %s of %s free memory", rows, _gb(needs.total(rows)), _gb(free))
    return rows


def available(device: torch.device) -> int:
    """Return the free bytes on `device`; on a CPU within the limit of the control group."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit, used = ((_CGROUP / file).read_text().strip() for file in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except OSError:  # no control group of its own
        return free


def is_shortage(error: BaseException) -> bool:
    """Return whether an allocation failed; on a CPU torch has no error class for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
