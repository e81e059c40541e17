"""Memory estimate of the fast engine before it allocates, and the number of rows that fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipelines.florence2.architecture import Text
from pipelines.florence2.fast.decode_batch import PROMPT_ROOM
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.parts import Vision
from pipelines.florence2.fast.row_buffers import FIRST_ROOM
from streamer.core.errors import ConfigError
from streamer.core.memory import available_memory

log = logging.getLogger(__name__)

MARGIN = 0.9
"""Maximum share of the free memory that the engine may use: the estimate is not exact."""


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
    decoder: Decoder, vision: Vision, text: Text, answer: int, beams: int, cached: int, frames: int
) -> Forecast:
    """Estimate the memory when every answer uses beam search with `beams`, as the quality `official` may.

    `answer` is the longest answer in tokens. `cached` frames stay cached beside those of the rows, `frames` go through
    the vision tower at once.
    """
    size = decoder.dtype.itemsize
    position = 2 * decoder.depth * decoder.heads * decoder.width * size
    source = vision.tokens + PROMPT_ROOM
    # A cache that grows exists twice until it is copied. All beams of an answer share one cross cache.
    own = 2 * beams * (answer + FIRST_ROOM) * position
    logits = 3 * 4 * beams * decoder.vocabulary
    vision_bytes = frames * vision.peak * size
    encoder_bytes = source * (4 * text.d_model + 2 * text.encoder_ffn_dim) * size
    image = vision.tokens * text.d_model * size
    row = own + source * position + logits + image
    work = vision_bytes + encoder_bytes + cached * image
    if decoder.device.type != "cpu":
        # All rows of a step go through the encoder at once, with preallocated inputs and outputs.
        row += encoder_bytes + 2 * source * text.d_model * size
    return Forecast(row=row, work=work)


class Room(NamedTuple):
    """Sizes of the largest step, for which memory is allocated."""

    rows: int
    """Answers that are generated at a time."""
    frames: int
    """Frames that go through the vision tower together."""

    @property
    def half(self) -> Room | None:
        """Return the next smaller sizes, None below one row."""
        return Room(self.rows // 2, max(1, self.frames // 2)) if self.rows > 1 else None

    def __str__(self) -> str:
        answers = f"{self.rows} answer{'s' if self.rows > 1 else ''}"
        return f"{answers} and {self.frames} frames" if self.frames > 1 else answers


def fit(wanted: Room, name: str, needs: Callable[[int], Forecast], device: torch.device, share: float) -> Room:
    """Return the wanted sizes, or smaller ones when memory is short: fewer rows, and frames only down to them.

    `needs` forecasts the memory for a number of frames, `share` is as in `available`. Raises ConfigError when not even
    one row fits.
    """
    free, frames = available(device, share), wanted.frames
    while frames > 1 and needs(frames).rows(free) < min(wanted.rows, frames):
        frames //= 2
    estimate = needs(frames)
    rows = min(wanted.rows, estimate.rows(free))
    if rows < 1:
        raise ConfigError(
            f"checkpoint {name} needs {_gb(estimate.total(1))} more memory for one answer at a time, "
            f"but {device} has {_gb(free)} free: use a smaller checkpoint or free memory"
        )
    log.info("up to %s at a time, %s of %s free memory", Room(rows, frames), _gb(estimate.total(rows)), _gb(free))
    return Room(rows, frames)


def limit(device: torch.device, share: float) -> None:
    """Make allocations fail above `share` of a card's memory, so that other programs on the card keep the rest."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)


def available(device: torch.device, share: float = 1.0) -> int:
    """Return the free bytes on `device`: on a card within `share` of its memory, on a CPU within the control group."""
    if device.type != "cpu":
        free, total = torch.get_device_module(device).mem_get_info(device)
        return int(min(free, share * total - torch.get_device_module(device).memory_reserved(device)))
    return available_memory()


def is_shortage(error: BaseException) -> bool:
    """Return whether an allocation failed; on a CPU torch has no error class for that."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
