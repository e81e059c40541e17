"""Preprocessing compared with the checkpoint's processor in transformers, which resizes with PIL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.preprocess import DeviceResize, Preprocessor, resize
from pipelines.florence2.processor import check_frame
from pipelines.florence2.resample import CACHED_AXES
from streamer.core.errors import ConfigError, PipelineError
from streamer.toyworld.world import World
from streamer.types import Image
from tests.support.fake_cuda import DEVICE, fake_cuda

RAW = {"size": {"height": 768, "width": 768}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

SIZES = [
    (1, 1),
    (1, 8000),
    (8000, 1),
    (3, 2),
    (17, 31),
    (96, 96),
    (767, 769),
    (480, 640),
    (1080, 1920),
    (1500, 7),
    (500, 333),
    (1920, 1080),
    (1000, 880),
    (1000, 890),
]


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)


def gradient(height: int, width: int) -> Image:
    rows, columns = np.linspace(0, 255, height)[:, None], np.linspace(255, 0, width)[None]
    channels = (rows + 0 * columns, 0 * rows + columns, (rows + columns) / 2)
    return np.stack(channels, axis=-1).astype(np.uint8)


def edges(height: int, width: int) -> Image:
    """Return black and white cells: the filter overshoots at every border."""
    cells = (np.arange(height)[:, None] // 5 + np.arange(width)[None] // 7) % 2 * 255
    return np.repeat(cells[..., None], 3, axis=2).astype(np.uint8)


def lines(height: int, width: int) -> Image:
    """Return white lines of one pixel on black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[::9], image[:, ::13] = 255, 255
    return image


def pil(image: Image, side: int) -> Any:
    return np.asarray(Pil.fromarray(image[..., ::-1].copy()).resize((side, side), Pil.Resampling.BICUBIC)).astype(int)


@pytest.mark.parametrize("paint", [noise, gradient, edges])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("side", [96, 768])
def test_resize_is_within_one_level_of_pil(paint: Any, shape: tuple[int, int], side: int) -> None:
    image = paint(*shape)
    off = np.abs(resize(image, (side, side)).permute(1, 2, 0).numpy().astype(int) - pil(image, side))
    if min(shape) >= 1.25 * side:
        assert off.max() <= 1
    else:  # enlarged or hardly reduced noise: few values round twice in the same direction
        assert off.max() <= 2
        assert (off > 1).mean() < 1e-4


def test_resize_keeps_orientation_and_colours() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:10, :, 0] = 255  # blue above
    image[10:, :20, 2] = 255  # red below left
    rgb = resize(image, (20, 40))
    assert rgb.shape == (3, 20, 40)
    assert rgb[:, 2, 2].tolist() == [0, 0, 255]
    assert rgb[:, 17, 2].tolist() == [255, 0, 0]
    assert rgb[:, 17, 38].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        *((shape, (768, 768), "bicubic") for shape in [*SIZES, (32, 32), (768, 300)]),
        *((shape, (96, 130), "bilinear") for shape in SIZES),
        ((2160, 3840), (384, 384), "bicubic"),
    ],
)
def test_resize_on_device_is_within_one_level(shape: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    """The operations of the device run on CPU tensors."""
    on_device = DeviceResize(size, mode, torch.device("cpu"))
    for paint in (noise, lines, edges):
        image = paint(*shape)
        off = (on_device(image).int() - resize(image, size, mode).int()).abs()
        assert off.max() <= 1
        if paint is not edges:  # whose cells give many sums of exactly half a level
            assert (off > 0).float().mean() < 5e-4


def test_scene_on_device_is_within_one_level() -> None:
    image = World(5).scene(1.0).paint(1920, 1080)
    for side in (384, 768):
        on_device = DeviceResize((side, side), "bicubic", torch.device("cpu"))
        assert (on_device(image).int() - resize(image, (side, side)).int()).abs().max() <= 1


def test_device_keeps_coefficients_of_few_sizes() -> None:
    on_device = DeviceResize((96, 96), "bicubic", torch.device("cpu"))
    for side in range(100, 200):
        on_device(np.zeros((side, side, 3), np.uint8))
    assert on_device._resample._axis.cache_info().currsize == CACHED_AXES


def test_crop_is_resized_on_device() -> None:
    """A crop is a view of the frame, with gaps between its rows."""
    crop = noise(300, 400)[20:220, 30:330]
    crop.flags.writeable = False
    assert torch.equal(DeviceResize((96, 96), "bicubic", torch.device("cpu"))(crop), resize(crop, (96, 96)))


@pytest.mark.parametrize("shape", [(32, 32), (768, 768), (1080, 1920), (2160, 3840), (8000, 9)])
def test_pixels_stay_on_the_device(shape: tuple[int, int]) -> None:
    with fake_cuda():
        pixels = Preprocessor(ImageSettings.read("x", RAW), DEVICE)(np.zeros((*shape, 3), np.uint8))
    assert (pixels.device, pixels.dtype, pixels.shape) == (DEVICE, torch.float32, (3, 768, 768))


@pytest.mark.parametrize("shape", [(96, 96), (480, 640), (31, 50)])
def test_pixels_equal_transformers(processor: Any, shape: tuple[int, int]) -> None:
    image = noise(*shape)
    image.flags.writeable = False
    # Independent of the Pillow version: no shape is enlarged in one direction and reduced in the other.
    theirs = processor(text="<OD>", images=Pil.fromarray(image[..., ::-1].copy()), return_tensors="pt").pixel_values[0]
    raw = processor.image_processor.to_dict()
    ours = Preprocessor(ImageSettings.read("small", raw))(image)
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    one_level = 1 / 255 / min(raw["image_std"])
    assert (ours - theirs).abs().max() <= one_level + 1e-4
    assert (ours - theirs).abs().mean() <= one_level / 10


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_array_that_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(PipelineError, match="the frame is not a BGR picture"):
        check_frame(image)


def test_missing_image_settings_default_to_florence() -> None:
    nothing = {"size": {"height": 768, "width": 768}, "do_resize": None, "do_normalize": None, "image_mean": None}
    assert ImageSettings.read("x", nothing) == ImageSettings.read("x", RAW)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": {"shortest_edge": 224}}, "must resize to a height and width"),
        ({"do_center_crop": True}, "crops pictures"),
        ({"resample": 0}, "unknown filter 0"),
    ],
)
def test_unsupported_preprocessing_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ImageSettings.read("x", {**RAW, **change})
