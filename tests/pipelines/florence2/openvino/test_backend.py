"""The backend `openvino`: equal answers, the choice of `auto`, the fall back to torch, the missing package."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.florence2 import dtype, pipeline
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.openvino import backend, cache, trial, trial_process
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.library import openvino
from pipelines.florence2.pipeline import Florence2Settings, open_engine
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Job, Result
from tests.support.checkpoints import assert_same, make_job

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")

PROGRAM = """
import sys
import torch
from pipelines.florence2.openvino.library import openvino
model = openvino().convert_model(torch.nn.ReLU(), example_input=torch.zeros(1, 4))
openvino().Core().compile_model(model, "CPU")
print(sum(1 for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name]))
"""


def run(engine: FastEngine, jobs: list[Job]) -> list[Result]:
    """Return the results in the order of the jobs."""
    found: dict[int, Result] = {}
    waiting = list(jobs)
    while len(found) < len(jobs):
        engine.admit([waiting.pop(0) for _ in range(min(engine.free(), len(waiting)))])
        found |= {id(result.job): result for result in engine.step()}
    return [found[id(job)] for job in jobs]


@pytest.fixture(scope="module")
def shipped(cache_folder: Path) -> FastEngine:
    engine = open_engine(Florence2Settings(device="cpu", backend="openvino"))
    assert isinstance(engine, FastEngine)
    return engine


def open_small(checkpoint: Path, **changes: Any) -> FastEngine:
    settings = {"checkpoint": str(checkpoint), "device": "cpu", "engine": "fast", **changes}
    engine = open_engine(Florence2Settings(**settings))
    assert isinstance(engine, FastEngine)
    return engine


def test_answers_equal_torch_on_all_tasks(shipped: FastEngine) -> None:
    torch_engine = open_engine(Florence2Settings(device="cpu", engine="fast", backend="torch", dtype="float32"))
    assert isinstance(torch_engine, FastEngine)
    world = World(seed=3)
    jobs = [make_job(task, world.scene(float(index)).paint(320, 240)) for index, task in enumerate(SPECS)]
    assert isinstance(shipped.image_cache.vision, OpenVINOVision)
    assert isinstance(shipped.encoder, OpenVINOEncoder)
    assert_same(run(shipped, jobs), run(torch_engine, jobs))


def test_description_names_the_backend(shipped: FastEngine) -> None:
    assert "through OpenVINO" in shipped.description
    assert shipped.warnings == []


def test_second_start_tries_and_converts_nothing(
    shipped: FastEngine, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "COMMAND", ("false",))
    beats: list[None] = []
    settings = Florence2Settings(device="cpu", backend="openvino")
    assert open_engine(settings, alive=lambda: beats.append(None)).warnings == []
    assert len(beats) >= 2


def test_auto_takes_openvino_for_a_large_model(
    checkpoint: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(open_small(checkpoint).encoder, OpenVINOEncoder)
    monkeypatch.setattr(dtype, "SMALL_MODEL", 0)
    assert not isinstance(open_small(checkpoint, backend="torch", dtype="float32").encoder, OpenVINOEncoder)
    engine = open_small(checkpoint, dtype="float32")
    assert isinstance(engine.encoder, OpenVINOEncoder), engine.warnings
    monkeypatch.setattr(pipeline, "find_spec", lambda _: None)
    engine = open_small(checkpoint, dtype="float32")
    assert not isinstance(engine.encoder, OpenVINOEncoder)
    assert engine.warnings == []


def test_deleted_models_are_converted_again(checkpoint: Path, cache_folder: Path) -> None:
    entry = cache.entry_of(open_folder(str(checkpoint)))
    shutil.rmtree(entry, ignore_errors=True)
    assert open_small(checkpoint, backend="openvino").warnings == []
    assert cache.read(entry)


def test_vision_tower_alone_can_be_tried(
    checkpoint: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_folder(str(checkpoint))
    wanted = {"checkpoint": str(checkpoint), "height": files.images.height, "device": "CPU", "dtype": "float32"}
    assert open_small(checkpoint, backend="openvino").warnings == []
    vision = str(cache.read(cache.entry_of(files))["vision"])
    monkeypatch.setattr(trial_process, "_end_with_parent", lambda: None)
    monkeypatch.setattr(trial_process, "_be_killed_first", lambda: None)
    for models, code in (({"vision": vision}, 0), ({"vision": str(tmp_path / "missing.xml")}, 1)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({**wanted, "models": models})))
        assert trial_process.main() == code


def test_wrong_model_falls_back_to_torch(
    checkpoint: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_small(checkpoint, backend="openvino").warnings == []
    models = cache.read(cache.entry_of(open_folder(str(checkpoint))))
    wrong = openvino().Core().read_model(models["encoder"])
    constant = next(node for node in wrong.get_ops() if node.get_type_name() == "Constant" and node.data.size > 1000)
    replaced = openvino().op.Constant(np.zeros_like(constant.data))
    for target in constant.output(0).get_target_inputs():
        target.replace_source_output(replaced.output(0))
    openvino().save_model(wrong, str(tmp_path / "encoder.xml"), compress_to_fp16=False)
    monkeypatch.setattr(backend, "prepare", lambda *_: {**models, "encoder": tmp_path / "encoder.xml"})
    engine = open_small(checkpoint, backend="openvino")
    (warning,) = engine.warnings
    assert "its text encoder differs from torch" in warning
    assert not isinstance(engine.encoder, OpenVINOEncoder)
    jobs = [make_job("caption"), make_job("object_detection")]
    assert_same(run(engine, jobs), run(open_small(checkpoint, backend="torch"), jobs))


def test_crash_in_the_trial_falls_back_for_good(
    checkpoint: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "COMMAND", (sys.executable, "-c", "import os; os.abort()"))
    (first,) = open_small(checkpoint, backend="openvino").warnings
    (verdict,) = own_cache.iterdir()
    assert first == "OpenVINO on CPU is not used: its trial crashed (SIGABRT); torch runs the whole model"
    monkeypatch.setattr(trial, "COMMAND", ("false",))
    (second,) = open_small(checkpoint, backend="openvino").warnings
    assert f"its trial crashed (SIGABRT); delete {verdict} to try again; torch runs" in second


def test_shortage_of_memory_falls_back_in_words(
    checkpoint: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_small(checkpoint, backend="openvino").warnings == []
    monkeypatch.setattr(backend, "available", lambda _: 10_000)
    (warning,) = open_small(checkpoint, backend="openvino").warnings
    assert "not used: it needs 0.0 GB of memory, 0.0 GB are free" in warning
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder / "empty"))
    (warning,) = open_small(checkpoint, backend="openvino").warnings
    assert "not used: its trial needs 0.5 GB of memory, 0.0 GB are free" in warning


def test_unwritable_cache_falls_back_to_torch(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    (warning,) = open_small(checkpoint, backend="openvino").warnings
    assert f"its models cannot be kept: {tmp_path}/file/openvino cannot be written: Not a directory; torch" in warning


def test_missing_device_falls_back_to_torch(checkpoint: Path, cache_folder: Path) -> None:
    (warning,) = open_small(checkpoint, device="openvino:NPU").warnings
    assert warning.startswith("OpenVINO on NPU is not used: its trial failed, internal error")
    assert warning.endswith("torch runs the whole model")


def test_bfloat16_passes_the_self_check(checkpoint: Path, cache_folder: Path) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("the processor has no bfloat16")
    assert open_small(checkpoint, backend="openvino", dtype="bfloat16").warnings == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "torch", "device": "openvino:GPU"}, "needs `backend: openvino`"),
        ({"backend": "openvino", "device": "cuda"}, "does not run on CUDA"),
        ({"backend": "openvino", "engine": "plain"}, "plain engine is pure torch"),
        ({"device": "openvino:TPU"}, "pattern"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Florence2Settings(**settings)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"run `pip install 'florence-streamer\[openvino\]'`"):
        open_engine(Florence2Settings(backend="openvino"))
    assert open_engine(Florence2Settings(device="cpu")).warnings == []


def test_packages_send_and_store_no_usage_data(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["0"]), done.stderr
    assert list(tmp_path.iterdir()) == []
