"""Prompts, tokens and parsing of the shipped model equal those of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import exactness
from pipelines.florence2.tasks import SPECS, Quality


@pytest.mark.parametrize(("quality", "images"), [("fast", 3), ("official", 1)])
def test_shipped_model_tokens_equal_transformers(quality: Quality, images: int) -> None:
    row = exactness.compare(exactness.shipped(), images, quality, max_tokens=48).row()
    assert row["jobs"] == images * len(SPECS)
    assert row["tokens"] > 3 * row["jobs"], "there is something to compare"
    assert row["ids"] == 1.0
    assert row["tokens_on_their_pixels"] == 1.0
    # Pixels differ from the library's by up to a level, which can move a location to the next bin.
    assert row["tokens_on_our_pixels"] >= 0.9
    assert row["max_level_difference"] <= 2.01


def test_10000_answers_parse_as_in_transformers(processor: Any) -> None:
    assert exactness.compare_parsing(processor, 10_000) == {"answers": 10_000, "equal": 1.0, "first_different": None}
