"""The shipped model: its checkpoint format, and its recall on toy worlds that were not in its training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from benchmarks.accuracy import measure
from pipelines.florence2.checkpoint_files import SHIPPED
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from streamer.toyworld.world import World
from streamer.types import Engine

MAX_BYTES = 12_000_000


@pytest.fixture(scope="module")
def engine() -> Engine:
    return pipeline.open(Florence2Settings(device="cpu"))


def test_shipped_model_is_small_and_runs_in_transformers() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < MAX_BYTES
    processor = AutoProcessor.from_pretrained(SHIPPED, local_files_only=True)
    model: Any = Florence2ForConditionalGeneration.from_pretrained(SHIPPED, local_files_only=True, dtype=torch.float32)
    picture = World(3).scene(2.0).paint(640, 480)[..., ::-1].copy()
    inputs = processor(text="<OD>", images=picture, return_tensors="pt")
    tokens = model.generate(**inputs, num_beams=1, max_new_tokens=64)
    text = processor.batch_decode(tokens, skip_special_tokens=False)[0]
    answer = processor.post_process_generation(text, task="<OD>", image_size=(640, 480))["<OD>"]
    truth = sorted(thing.kind for thing in World(3).scene(2.0).objects)
    assert sorted(answer["labels"]) == truth


FLOORS = {
    "object_detection": 0.88,
    "region_proposal": 0.85,
    "open_vocabulary_detection": 0.8,
    "referring_segmentation": 0.7,
    "region_to_category": 0.8,
    "caption": 0.8,
    "ocr": 0.5,
}
"""Minimum recall, below the recall over 200 scenes because these are fewer."""


@pytest.mark.parametrize("task", FLOORS)
def test_shipped_model_recall_on_held_out_worlds(engine: Engine, task: str) -> None:
    row = measure(engine, task, scenes=60)["seen" if task == "ocr" else ""].row()
    assert row["recall"] is not None
    assert row["recall"] >= FLOORS[task], row
