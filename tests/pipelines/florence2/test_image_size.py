"""`image_size`: pictures of another size than the checkpoint's own, compared with transformers at that size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pil

from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.pipeline import Florence2, Florence2Settings, open_engine
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.core.errors import ConfigError
from tests.support.checkpoints import assert_same, build_checkpoint, make_image, make_job

SIDES = (384, 512)
"""The feature maps of 384 fit into windows of 12 positions, those of 512 are padded to them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 96 pixels with the windows of the published ones, and room for 640 pixels."""
    return build_checkpoint(tmp_path_factory.mktemp("sizes") / "small", positions=512, window=12)


def settings(folder: Path | None, side: int | None, engine: Any = "plain") -> Florence2Settings:
    return Florence2Settings(checkpoint=folder and str(folder), device="cpu", image_size=side, engine=engine)


@pytest.mark.parametrize("side", SIDES)
def test_input_and_tokens_equal_transformers(folder: Path, side: int) -> None:
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = {"height": side, "width": side}
    processor.num_image_tokens = processor.image_seq_length = (side // 32) ** 2 + 1
    engine: Any = open_engine(settings(folder, side))
    one_level = 1 / 255 / min(processor.image_processor.image_std)
    for width, height in ((side, side), (1000, 700)):
        image = make_image(3, width, height)
        picture = Pil.fromarray(image[..., ::-1].copy())
        inputs = processor(text=FLORENCE_TASKS["object_detection"].prompt, images=picture, return_tensors="pt")
        row = engine.prepare(make_job("object_detection", image, max_tokens=40))
        assert row.ids == inputs.input_ids[0].tolist()
        assert row.pixels.shape == (3, side, side)
        assert (row.pixels - inputs.pixel_values[0]).abs().max() <= one_level + 1e-4
        if (width, height) != (side, side):
            continue  # pixels that were resized differ by a level, which can turn tokens of random weights
        config = engine._generation_config("fast", 40)
        theirs = engine.network.generate(**inputs, generation_config=config)[0].tolist()
        assert engine.generate([row], "fast")[0].tokens == theirs


@pytest.mark.parametrize("side", SIDES)
def test_fast_engine_equals_plain_one_on_all_tasks(folder: Path, side: int) -> None:
    def answers(kind: str) -> list[Any]:
        engine = open_engine(settings(folder, side, kind))
        found = []
        for number, task in enumerate(SPECS):
            engine.admit([make_job(task, make_image(number), max_tokens=30)])
            results: list[Any] = []
            while not results:
                results = engine.step()
            found += results
        return found

    plain = answers("plain")
    assert any(result.outcome == "ok" for result in plain)
    assert_same(answers("fast"), plain)


def test_vision_tower_runs_at_the_size(folder: Path) -> None:
    engine: Any = open_engine(settings(folder, 640, "fast"))
    pixels = torch.randn(1, 3, 640, 640, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = engine.image_cache.vision(pixels)
        plain: Any = open_engine(settings(folder, 640))
        theirs = plain.network.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours.shape[1] == 401


@pytest.mark.parametrize(
    ("shipped", "side", "words"),
    [
        (False, 100, "model.image_size: 100 is none of 384, 512, 640, 768; choose one, or leave it out for the size"),
        (False, 768, "768 gives 577 image tokens, and the model takes 512 tokens, of which the prompt needs 102"),
        (True, 384, "384 gives 577 image tokens.*leave it out for the size of checkpoint tiny, 192x192"),
    ],
)
def test_size_that_does_not_fit_is_refused(folder: Path, shipped: bool, side: int, words: str) -> None:
    chosen = settings(None if shipped else folder, side)
    with pytest.raises(ConfigError, match=words):
        open_engine(chosen)
    reason = Florence2().refuse(chosen, "caption", SPECS["caption"].parameters())
    assert reason, "`streamer check` reports it"
    assert reason.startswith("model.image_size: ")


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ({"patch_stride": [5, 2, 2, 2]}, "384 is not a multiple of 40, the stride"),
        ({"max_position_embeddings": 10}, "384 gives 12 rows of image tokens, and the model has positions for 10"),
    ],
)
def test_size_that_vision_tower_cannot_take_is_refused(folder: Path, vision: dict[str, Any], words: str) -> None:
    images = open_folder(str(folder)).images
    with pytest.raises(ConfigError, match=words):
        images.resized("small", 384, vision, 1024)


def test_own_size_changes_nothing() -> None:
    files = open_folder(None)
    assert files.with_image_size(192) == files.with_image_size(None) == files
