"""The check of an int8 model at start."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.engine import TOLERANCE, build_engine
from pipelines.florence2.openvino.graphs import convert
from pipelines.florence2.openvino.library import openvino
from pipelines.florence2.pipeline import Florence2Settings, load_parts, open_engine
from streamer.core.errors import ConfigError
from tests.support.checkpoints import build_checkpoint

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")


def test_int8_model_of_other_weights_is_refused(tmp_path: Path) -> None:
    # Twice as wide as in other tests: see docs/decisions/0021-openvino.md on ONEDNN_MAX_CPU_ISA.
    checkpoint, other_weights = (build_checkpoint(tmp_path / str(seed), seed=seed, scale=2) for seed in (1, 2))
    other = open_folder(str(other_weights))
    models = {}
    for name, model in convert(*load_parts(other), other.images):
        models[name] = tmp_path / f"{name}.xml"
        openvino().save_model(model, str(models[name]), compress_to_fp16=False)
    engine = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", engine="fast", int8="off"))
    assert isinstance(engine, FastEngine)
    vision = engine.image_cache.vision
    with pytest.raises(ConfigError, match="does not work on this computer: its vision tower differs"):
        build_engine(engine, models, TOLERANCE)
    assert engine.image_cache.vision is vision
