"""The number of CUDA cards, without torch in this process: its import takes seconds and hundreds of megabytes."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

COUNT_S = 60.0
"""Longest time to ask torch, which a busy disk may take to import it."""
_COUNT = "import torch; print(torch.cuda.device_count())"


def count_cards(devices: Path = Path("/dev")) -> int:
    """Return how many cards torch can use, as far as it matters whether there are several.

    Fewer than two device files are not counted further. With more, only torch knows: it may have been built without
    CUDA, and variables of the environment may hide cards.
    """
    nodes = len(list(devices.glob("nvidia[0-9]*")))
    if nodes < 2:
        return nodes
    try:
        done = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, timeout=COUNT_S)
        return int(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        log.warning("%d cards found, but torch does not say how many it can use: using one process", nodes)
        return 0
