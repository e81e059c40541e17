"""Vision tower and encoder at fixed sizes: equal to those at the sizes in use, and clean on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.launches import MODELS, part_launches
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.graphs import EagerRunner
from pipelines.florence2.fast.static_parts import MAX_PROMPT, MAX_ROWS, StaticEncoder, StaticVision
from pipelines.florence2.speed.launches import weights_of
from tests.support.fake_cuda import DEVICE, fake_cuda
from tests.support.graph_faults import FakeGraphs

SIDE = 96
PROMPTS = [[0, 5, 6, 7, 2], [0, 9, 2], [0, *range(4, 40), 2]]


@pytest.fixture(scope="module")
def opened(checkpoint: Path) -> Checkpoint:
    return load(open_folder(str(checkpoint)), "cpu", "float32")


@pytest.fixture(scope="module")
def tower(opened: Checkpoint) -> DaViT:
    return DaViT(opened.weights, opened.architecture.vision, SIDE, SIDE)


@pytest.fixture(scope="module")
def encoder(opened: Checkpoint) -> Encoder:
    return Encoder(opened.weights, opened.architecture.text)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pixels(frames: int) -> torch.Tensor:
    return torch.randn(frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(frames))


def test_static_vision_equals_vision(tower: DaViT) -> None:
    runner = FakeGraphs()
    static = StaticVision(tower, 4, runner)
    for frames in (3, 1, 4, 3, 2, 6):
        torch.testing.assert_close(static(pixels(frames)), tower(pixels(frames)), rtol=1e-4, atol=1e-5)
    assert runner.names == ["vision of 4 frames", "vision of 1 frames", "vision of 2 frames"], "each prepared once"
    assert (static.tokens, static.peak) == (tower.tokens, tower.peak)


def test_unused_frames_change_nothing(tower: DaViT) -> None:
    static = StaticVision(tower, 4, EagerRunner())
    before = static(pixels(3))
    static(torch.full((4, 3, SIDE, SIDE), float("nan")))
    after = static(pixels(3))
    assert torch.equal(before, after)
    static(pixels(4))
    assert torch.equal(before, after), "the result is a copy"


def test_static_encoder_equals_encoder(tower: DaViT, encoder: Encoder) -> None:
    images = list(tower(pixels(3)))
    runner = FakeGraphs()
    static = StaticEncoder(encoder, tower.tokens, 2, runner)
    for rows in ([0], [0, 1], [2], [2, 1, 0]):
        chosen, prompts = [images[row] for row in rows], [PROMPTS[row] for row in rows]
        states = static(chosen, prompts)
        for row, (image, prompt) in enumerate(zip(chosen, prompts, strict=True)):
            end = len(image) + len(prompt)
            torch.testing.assert_close(states[row, :end], encoder([image], [prompt])[0], rtol=1e-4, atol=1e-5)
    assert runner.names == [
        "encoder of 1 rows with 32 positions",
        "encoder of 2 rows with 32 positions",
        "encoder of 1 rows with 64 positions",
        "encoder of 2 rows with 64 positions",
    ]


def test_unused_rows_change_no_states(tower: DaViT, encoder: Encoder) -> None:
    images = list(tower(pixels(3)))
    static = StaticEncoder(encoder, tower.tokens, 4, EagerRunner())
    before = static(images, PROMPTS)
    static([torch.full_like(images[0], float("nan"))] * 4, [PROMPTS[2]] * 4)
    assert torch.equal(static(images, PROMPTS), before)


def test_encoder_of_long_prompt_runs_as_it_is(tower: DaViT, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.florence2.fast.static_parts.MAX_PROMPT", 4)
    runner = FakeGraphs()
    image = tower(pixels(1))[0]
    states = StaticEncoder(encoder, tower.tokens, 2, runner)([image], [PROMPTS[0]])
    assert torch.equal(states, encoder([image], [PROMPTS[0]]))
    assert runner.names == []


SHALLOW = Architecture.model_validate(
    {
        "text_config": {"d_model": 768, "encoder_layers": 1, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072},
        "vision_config": {"projection_dim": 768, "depths": [1, 1, 1, 1]},
    }
)
"""Florence-2 base with fewer layers: those left out have the same shapes."""


@pytest.fixture
def base() -> Iterator[tuple[DaViT, Encoder]]:
    """Vision tower and encoder of Florence-2 base on a CUDA device, without data. All tensors of the test are so."""
    with fake_cuda():
        weights = weights_of(SHALLOW, torch.bfloat16, DEVICE)
        yield DaViT(weights, SHALLOW.vision, 768, 768), Encoder(weights, SHALLOW.text)


def test_vision_of_all_sizes_stays_on_the_device(base: tuple[DaViT, Encoder]) -> None:
    vision = StaticVision(base[0], MAX_ROWS, EagerRunner())
    for frames in (1, 2, 4, 8, 16, 32):
        tokens = vision(torch.empty(frames, 3, 768, 768, device=DEVICE))
        assert (tokens.device, tokens.dtype, tokens.shape) == (DEVICE, torch.bfloat16, (frames, 577, 768))


def test_encoder_of_all_sizes_stays_on_the_device(base: tuple[DaViT, Encoder]) -> None:
    encoder = StaticEncoder(base[1], 577, MAX_ROWS, EagerRunner())
    sizes = [(rows, prompt) for rows in (1, 2, 4, 8, 16, 32) for prompt in (8, 40, 70, MAX_PROMPT)]
    for rows, prompt in [*sizes, (2, MAX_PROMPT + 1)]:
        images = [torch.empty(577, 768, dtype=torch.bfloat16, device=DEVICE)] * rows
        states = encoder(images, [[2] * prompt, *[[2]] * (rows - 1)])
        positions = 577 + prompt if prompt > MAX_PROMPT else -(-(577 + prompt) // 32) * 32
        assert (states.device, states.dtype, states.shape) == (DEVICE, torch.bfloat16, (rows, positions, 768))


def test_launches_on_the_device_stay_few() -> None:
    """A GPU launches each operation on its own without a graph. The vision tower of transformers has 407, ours without
    kernels of its own has 414."""
    counted = part_launches(MODELS["base"], DEVICE, 8)
    limits = {"preprocessing, one frame": 20, "vision tower, 8 frames": 194, "encoder, 8 rows": 70}
    assert all(counted[part].total() <= limit for part, limit in limits.items())
    assert counted["vision tower, 8 frames"]["streamer::window_attention"] == 12
