"""The small model inside: that it is a plain checkpoint, and that it tells the truth about worlds it never saw."""

from __future__ import annotations

from typing import Any

import torch
from accuracy import measure
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from pipelines.florence2 import Florence2Settings, pipeline
from pipelines.folder import SHIPPED
from streamer.toyworld import World

MOST_BYTES = 12_000_000


def test_it_is_a_plain_native_checkpoint_of_a_few_megabytes() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < MOST_BYTES
    processor = AutoProcessor.from_pretrained(SHIPPED, local_files_only=True)
    model: Any = Florence2ForConditionalGeneration.from_pretrained(SHIPPED, local_files_only=True, dtype=torch.float32)
    picture = World(3).scene(2.0).paint(640, 480)[..., ::-1].copy()
    inputs = processor(text="<OD>", images=picture, return_tensors="pt")
    tokens = model.generate(**inputs, num_beams=1, max_new_tokens=64)
    text = processor.batch_decode(tokens, skip_special_tokens=False)[0]
    answer = processor.post_process_generation(text, task="<OD>", image_size=(640, 480))["<OD>"]
    truth = sorted(thing.kind for thing in World(3).scene(2.0).objects)
    assert sorted(answer["labels"]) == truth


def test_nine_of_ten_objects_are_found() -> None:
    engine = pipeline.open(Florence2Settings(device="cpu"))
    score = measure(engine, "object_detection", scenes=100).row()
    assert score["recall"] is not None
    assert score["recall"] >= 0.9, score
