"""Vision tower, encoder and decoder compared with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.reference_engine import ReferenceEngine

PROMPTS = [[0, 5, 6, 7, 2], [0, 9, 2]]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> Checkpoint:
    return load(open_folder(str(checkpoint)), "cpu", "float32")


@pytest.fixture(scope="module")
def model(opened: Checkpoint) -> Any:
    """The checkpoint in transformers."""
    return ReferenceEngine(opened, 1).network


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", [(96, 96), (144, 144), (100, 130), (72, 200), (7, 9)])
def test_vision_tower_equals_transformers(opened: Checkpoint, model: Any, size: tuple[int, int]) -> None:
    """Most of these sizes need padding to windows of 4 in some stage."""
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    vision = DaViT(opened.weights, opened.architecture.vision, *size)
    theirs = model.model.get_image_features(pixels).pooler_output
    assert_close(vision(pixels), theirs)
    assert vision.tokens == theirs.shape[1]


def test_encoder_and_decoder_equal_transformers(opened: Checkpoint, model: Any) -> None:
    """Rows of different length, several tokens per pass, rows at different positions in one pass."""
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    weights, text = opened.weights, opened.architecture.text
    vision = DaViT(weights, opened.architecture.vision, 96, 96)
    states = Encoder(weights, text)(list(vision(pixels)), PROMPTS)
    image = [model.config.image_token_id] * 10
    written = torch.tensor([[2, 0, 10, 11, 12], [2, 0, 20, 21, 22]])
    theirs = model(
        input_ids=torch.tensor([image + PROMPTS[0], [*image, *PROMPTS[1], 1, 1]]),
        attention_mask=torch.tensor([[1] * 15, [1] * 13 + [0] * 2]),
        pixel_values=pixels,
        decoder_input_ids=written,
    )
    assert_close(states[0], theirs.encoder_last_hidden_state[0])
    assert_close(states[1, :13], theirs.encoder_last_hidden_state[1, :13])

    decoder = Decoder(weights, text)
    own, cross = decoder.cache(2, 20), decoder.cache(2, 20)
    decoder.fill_cross_cache(states, cross)
    bias = torch.zeros(2, 1, 1, 20)
    bias[0, ..., 15:], bias[1, ..., 13:] = float("-inf"), float("-inf")

    def run(ids: torch.Tensor, places: list[list[int]], seen: int, rows: int, skip: int = 0) -> torch.Tensor:
        positions = torch.tensor(places)
        caches = own[:, :, :rows], cross[:, :, :rows], bias[:rows]
        return decoder(ids, positions, decoder.visible(positions, seen), *caches, skip=skip)

    first = run(written[:, :2], [[0, 1], [0, 1]], 2, rows=2, skip=1)
    assert_close(first[:, 0], theirs.logits[:, 1])
    piece = run(written[:1, 2:4], [[2, 3]], 4, rows=1)
    assert_close(piece[0], theirs.logits[0, 2:4])
    mixed = torch.stack([written[0, 4:5], written[1, 2:3]])
    both = run(mixed, [[4], [2]], 5, rows=2)
    assert_close(both[:, 0], torch.stack([theirs.logits[0, 4], theirs.logits[1, 2]]))
