"""Changes that the shipped model reports on simulated scenes; `benchmarks/changes.py` does the same on many."""

from __future__ import annotations

import pytest

from benchmarks.changes import events, still
from pipelines.florence2.pipeline import pipeline
from streamer.types import Engine


@pytest.fixture(scope="module")
def engine() -> Engine:
    return pipeline.open(pipeline.settings())


def test_still_noisy_scene_has_no_results(engine: Engine) -> None:
    found = still(engine, "caption", scenes=1, minutes=1.2)
    assert (found["results"], found["unchanged_reports"]) == (0, 1)


def test_appearance_and_disappearance_are_reported_soon(engine: Engine) -> None:
    assert events(engine, "detailed_caption", scenes=1) == {
        "events": 2,
        "in_time": 2,
        "late": 0,
        "missed": 0,
        "other": 0,
    }
