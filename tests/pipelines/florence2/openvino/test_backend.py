"""The backend `openvino`: equal answers, the cache of converted models, the self-check, the missing package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.openvino import backend, cache
from pipelines.florence2.openvino.compiled import OpenVINOEncoder, OpenVINOVision
from pipelines.florence2.openvino.library import openvino
from pipelines.florence2.pipeline import Florence2Settings, load_parts, open_engine
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Job, Result
from tests.support.checkpoints import assert_same, build_checkpoint, make_job

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
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CACHE_DIRECTORY", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "streamer" / "openvino"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with widths that OpenVINO survives with ONEDNN_MAX_CPU_ISA=AVX2."""
    return build_checkpoint(tmp_path_factory.mktemp("florence") / "small", scale=2)


@pytest.fixture(scope="module")
def shipped(cache_folder: Path) -> FastEngine:
    engine = open_engine(Florence2Settings(device="cpu", backend="openvino"))
    assert isinstance(engine, FastEngine)
    return engine


@pytest.fixture(scope="module")
def files(checkpoint: Path) -> CheckpointFiles:
    return open_folder(str(checkpoint))


@pytest.fixture(scope="module")
def models(files: CheckpointFiles) -> Mapping[str, Any]:
    return backend.convert(*load_parts(files), files.images)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "streamer" / "openvino"


class Conversions:
    """Counts conversions, each of which returns the same models."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self.models, self.count = models, 0

    def __call__(self) -> Mapping[str, Any]:
        self.count += 1
        return self.models


def open_small(checkpoint: Path, **changes: Any) -> FastEngine:
    engine = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="cpu", engine="fast", **changes))
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


def test_second_start_reads_the_cache(shipped: FastEngine, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "convert", None)
    assert open_engine(Florence2Settings(device="cpu", backend="openvino")).warnings == shipped.warnings == []
    assert cache_folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no list", "bad list"])
def test_damaged_cache_is_made_again(
    damage: str, files: CheckpointFiles, models: Mapping[str, Any], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(cache.log, "warning", lambda text, *values: logged.append(text % values))
    convert = Conversions(models)
    made = cache.converted(files, convert)
    weights, hashes = made["vision"].with_suffix(".bin"), made["vision"].with_name("hashes.json")
    whole = weights.read_bytes()
    match damage:
        case "truncated":
            os.truncate(weights, len(whole) // 2)
        case "changed":
            weights.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
        case "missing":
            weights.unlink()
        case "no list":
            hashes.unlink()
        case "bad list":
            hashes.write_text("[]")
    assert cache.converted(files, convert) == made
    assert convert.count == 2
    assert weights.read_bytes() == whole
    assert logged == [f"OpenVINO: cache {weights.parent} is damaged: it is made again"]


def test_changed_checkpoint_is_converted_again(
    checkpoint: Path, models: Mapping[str, Any], own_cache: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    weights = copy / "model.safetensors"
    convert = Conversions(models)
    cache.converted(open_folder(str(copy)), convert)
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    cache.converted(open_folder(str(copy)), convert)
    assert convert.count == 2


def test_only_newest_cache_entries_stay(files: CheckpointFiles, models: Mapping[str, Any], own_cache: Path) -> None:
    for index in range(cache.MAX_ENTRIES + 1):
        (own_cache / f"old{index}").mkdir(parents=True)
        os.utime(own_cache / f"old{index}", (index, index))
    entry = cache.converted(files, Conversions(models))["vision"].parent
    newest = {f"old{index}" for index in range(2, cache.MAX_ENTRIES + 1)}
    assert {path.name for path in own_cache.iterdir()} == {entry.name, *newest}


def test_unwritable_cache_is_no_failure(
    files: CheckpointFiles, models: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    assert cache.converted(files, Conversions(models)) == models


def test_wrong_model_falls_back_to_torch(
    checkpoint: Path, models: Mapping[str, Any], own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wrong = models["encoder"].clone()
    constant = next(node for node in wrong.get_ops() if node.get_type_name() == "Constant" and node.data.size > 1000)
    replaced = openvino().op.Constant(np.zeros_like(constant.data))
    for target in constant.output(0).get_target_inputs():
        target.replace_source_output(replaced.output(0))
    monkeypatch.setattr(backend, "convert", lambda *_: {**models, "encoder": wrong})
    engine = open_small(checkpoint, backend="openvino")
    (warning,) = engine.warnings
    assert "its text encoder differs from torch" in warning
    assert not isinstance(engine.encoder, OpenVINOEncoder)
    jobs = [make_job("caption"), make_job("object_detection")]
    assert_same(run(engine, jobs), run(open_small(checkpoint, backend="torch"), jobs))


def test_missing_device_falls_back_to_torch(
    checkpoint: Path, models: Mapping[str, Any], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "convert", lambda *_: models)
    engine = open_engine(Florence2Settings(checkpoint=str(checkpoint), device="openvino:NPU", engine="fast"))
    (warning,) = engine.warnings
    assert warning.startswith("OpenVINO on NPU is not used: it does not run the model")
    assert warning.endswith("torch runs the whole model")


def test_bfloat16_passes_the_self_check(
    checkpoint: Path, models: Mapping[str, Any], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "convert", lambda *_: models)
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
