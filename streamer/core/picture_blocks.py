"""Tells near-duplicates of pictures: equal scenes but for noise, compression and size.

A hash of brighter and darker neighbours (dHash) does not fit a camera that never moves: its background decides nearly
all bits, and a new person changes few of them. Here the mean brightness of each part of the picture is compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from streamer.types import Image

COLUMNS, ROWS = 16, 12
LEVELS = 6
"""Grey levels by which a block must differ to count as changed. Noise of a camera changes its mean by less than one."""
CHANGED = 2
"""Blocks that must be changed for a picture to be another one: an object of a hundredth of the picture covers three."""
MAX_SEEN = 10_000
"""Pictures that are compared with a new one; 2 MB."""
MIN_CONTRAST = 4.0
"""Standard deviation of the grey levels below which a picture shows nothing: a covered lens, no signal."""

PictureBlocks = npt.NDArray[np.uint8]
"""Mean grey levels of the blocks of a picture, row by row, shape (192,)."""


def picture_blocks(image: Image) -> PictureBlocks | None:
    """Return the blocks of a picture; None for one that shows nothing."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if grey.std() < MIN_CONTRAST:
        return None
    return np.asarray(cv2.resize(grey, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), np.uint8).reshape(-1)


class SeenPictures:
    """The pictures that were kept so far, at most `MAX_SEEN`; then the oldest are forgotten."""

    def __init__(self, kept: Sequence[PictureBlocks] = (), changed: int = CHANGED) -> None:
        """`kept`: earlier pictures, oldest first. `changed`: blocks that must be changed for another picture."""
        self._blocks = np.array(kept[-MAX_SEEN:], np.uint8).reshape(-1, COLUMNS * ROWS)
        self._changed = changed

    def add(self, blocks: PictureBlocks) -> bool:
        """Add a picture; return False, without adding it, if it is a near-duplicate of one of them."""
        differs = np.abs(self._blocks.astype(np.int16) - blocks) > LEVELS
        if (differs.sum(1) < self._changed).any():
            return False
        self._blocks = np.concatenate([self._blocks[1 - MAX_SEEN :], blocks[None]])
        return True


def to_text(blocks: PictureBlocks) -> str:
    return blocks.tobytes().hex()


def from_text(text: str | None) -> PictureBlocks | None:
    """Return the blocks of a text that `to_text` made; None for any other."""
    try:
        content = bytes.fromhex(text or "")
    except ValueError:
        return None
    return np.frombuffer(content, np.uint8) if len(content) == COLUMNS * ROWS else None
