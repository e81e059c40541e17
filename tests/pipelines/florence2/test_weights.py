"""Reading weights one by one: names, number types, other layouts, memory."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.cpu import in_process
from benchmarks.memory import peak_memory
from pipelines.florence2.architecture import Architecture
from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.weights import HEAD, SHARED, find_weights
from streamer.core.errors import ConfigError
from tests.support.checkpoints import build_checkpoint

ENCODER = "model.language_model.encoder.embed_tokens.weight"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "mine"))


def rewrite(path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("folder", ["shipped", "small"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_equal_transformers(checkpoint: Path, folder: str, dtype: str) -> None:
    opened = load(open_folder(None if folder == "shipped" else str(checkpoint)), "cpu", dtype)
    theirs = ReferenceEngine(opened, 1).network.state_dict()
    assert opened.network is None
    for name, weight in theirs.items():
        assert torch.equal(opened.weights[name], weight), name
        assert opened.weights[name].dtype == weight.dtype


def test_shapes_equal_transformers(checkpoint: Path) -> None:
    opened = load(open_folder(str(checkpoint)), "cpu", "auto")
    state = ReferenceEngine(opened, 1).network.state_dict()
    theirs = {
        name: tuple(weight.shape) for name, weight in state.items() if name != HEAD and "embed_tokens" not in name
    }
    assert opened.architecture.shapes() == theirs


def test_defaults_of_sizes_equal_transformers() -> None:
    from transformers import Florence2Config

    config = Florence2Config()
    ours = Architecture.read("x", {})
    for part, theirs in ((ours.vision, config.vision_config), (ours.text, config.text_config)):
        for key, value in dict(part).items():
            assert value == getattr(theirs, key), key


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("text_config", {"d_model": "wide"}, "has a wrong text_config.d_model"),
        ("text_config", {"decoder_attention_heads": 5}, "a width not divisible by its heads"),
        ("vision_config", {"depths": [1, 1]}, "lists of different length"),
        ("vision_config", {"window_size": 0}, "has a wrong vision_config.window_size"),
    ],
)
def test_wrong_size_in_config_is_named(copy: Path, section: str, changes: dict[str, Any], words: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    config[section] |= changes
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=words):
        load(open_folder(str(copy)), "cpu", "auto")


@pytest.mark.parametrize("name", [ENCODER, HEAD])
def test_embedding_is_found_under_each_name(copy: Path, name: str) -> None:
    weights = load_file(copy / "model.safetensors")
    weights[name] = weights.pop(SHARED)
    rewrite(copy, weights)
    opened = load(open_folder(str(copy)), "cpu", "auto")
    assert opened.network is None
    assert opened.weights[SHARED] is opened.weights[HEAD] is opened.weights[ENCODER]


def test_weights_of_another_layout_are_read(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The inner model, saved alone, has no `model.` in its names: transformers accepts it."""
    caplog.set_level(logging.INFO)
    weights = load_file(copy / "model.safetensors")
    rewrite(copy, {name.removeprefix("model."): weight for name, weight in weights.items()})
    opened = load(open_folder(str(copy)), "cpu", "auto")
    assert "weights of mine: read with transformers" in caplog.text
    for name in weights:
        assert torch.equal(opened.weights[name], weights[name])
    FastEngine(opened, 1).warm_up()


def test_file_cut_after_opening_is_damaged(copy: Path) -> None:
    opened = load(open_folder(str(copy)), "cpu", "auto")
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"checkpoint mine: model\.safetensors is damaged"):
        FastEngine(opened, 1)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_file_is_damaged(copy: Path, keep: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        find_weights("mine", [file])


def test_reading_a_model_takes_little_more_than_its_weights(tmp_path: Path) -> None:
    folder = build_checkpoint(tmp_path / "larger", scale=24)
    assert (folder / "model.safetensors").stat().st_size > 150e6
    peaks = in_process({}, peak_memory, folder, "float32", 1)
    assert 0.9 < peaks["built"] < 1.3
