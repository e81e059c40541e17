"""Memory of a training run: the measured peak, and the refusal of a run that needs too much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.florence2.finetune.memory import Peak, check_room
from pipelines.florence2.finetune.settings import TrainingSettings
from streamer.core.errors import ConfigError

GB = 10**9


def test_peak_is_that_since_it_was_begun() -> None:
    size = 400_000_000
    peak = Peak(torch.device("cpu"))
    torch.ones(size, dtype=torch.uint8)
    assert peak.rise > 0.9 * size
    assert Peak(torch.device("cpu")).rise < 0.5 * size


def test_run_that_fits_is_not_refused() -> None:
    check_room(2 * GB, GB, 8, 10 * GB, TrainingSettings())


@pytest.mark.parametrize(
    ("settings", "fixed", "advice"),
    [
        ({}, 2 * GB, "training needs 10.00 GB more memory, and 5.50 GB are free: use --batch 3 or less"),
        ({}, 6 * GB, "--batch 1 is too much; use a smaller checkpoint, or free memory"),
        ({"full": True}, 5 * GB, "--batch 1 is too much; leave out --full, use a smaller checkpoint, or free memory"),
        ({"full": True, "vision": True}, 9 * GB, "leave out --full and --vision, use a smaller checkpoint"),
    ],
)
def test_run_that_needs_too_much_is_refused(settings: dict[str, Any], fixed: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        check_room(fixed, GB, 8, int(5.5 * GB), TrainingSettings(**settings))
