"""Generation settings compared with those that transformers uses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.generation_settings import GenerationSettings, unsupported
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.reference_engine import ReferenceEngine
from streamer.core.errors import ConfigError


def in_transformers(path: Path) -> Any:
    """Return the settings of `generate`: the checkpoint's, with gaps filled from the model's own."""
    engine = ReferenceEngine(load(open_folder(str(path)), "cpu", "auto"), 1)
    found = copy.deepcopy(engine._generation)
    for key, value in engine.network.generation_config.to_dict().items():
        if getattr(found, key, None) is None:
            setattr(found, key, value)
    return found


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": "never", "eos_token_id": [2, 4]}, {}),
        ({"suppress_tokens": [5], "exponential_decay_length_penalty": [6, 1.5], "length_penalty": 0.5}, {}),
        ({"max_length": 20}, {"decoder_start_token_id": 0}),
        (None, {"forced_bos_token_id": 0, "num_beams": 3}),
        (None, {"forced_eos_token_id": 4, "eos_token_id": 4, "decoder_start_token_id": 4}),
    ],
)
def test_settings_equal_transformers(tmp_path: Path, content: dict[str, Any] | None, text: dict[str, Any]) -> None:
    path = Path(shutil.copytree(SHIPPED, tmp_path / "mine"))
    if content is None:
        (path / "generation_config.json").unlink()
    else:
        (path / "generation_config.json").write_text(json.dumps(content))
    config = json.loads((path / "config.json").read_text())
    config["text_config"] |= text
    (path / "config.json").write_text(json.dumps(config))
    ours, theirs = GenerationSettings.read("mine", open_folder(str(path)).generation), in_transformers(path)
    for key, value in dict(ours).items():
        expected = getattr(theirs, key)
        assert value == (tuple(expected) if isinstance(value, tuple) else expected), key


def test_unsupported_generation_settings_are_named() -> None:
    known = {"num_beams": 3, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "max_length": 20, "eos_token_id": 2}
    assert unsupported(known | {"transformers_version": "5", "temperature": 0.5, "min_length": None}) == []
    assert unsupported({"repetition_penalty": 1.2, "min_length": 4}) == ["min_length", "repetition_penalty"]


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_wrong_generation_setting_is_named(checkpoint: Path, tmp_path: Path, engine: Any) -> None:
    path = Path(shutil.copytree(checkpoint, tmp_path / "mine"))
    content = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps(content | {"early_stopping": "soon"}))
    with pytest.raises(ConfigError, match="checkpoint mine: its generation settings"):
        pipeline.open(Florence2Settings(checkpoint=str(path), device="cpu", engine=engine))
