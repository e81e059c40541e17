"""Quantization of the shipped model: what passes is used, what is refused is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.florence2.int8 import store
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.tasks import SPECS
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import DueTask, Engine, Frame, Image, Job, Result, Task

pytestmark = pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra quantize")

SETTINGS = Florence2Settings(device="cpu")


def jobs(images: Sequence[Image], *tasks: str, **keys: Any) -> list[Job]:
    return [
        Job(DueTask("", Task(task, task, SPECS[task].parameters(**keys)), 0.0), Frame("", 0, index, 0, 0, None, image))
        for index, image in enumerate(images)
        for task in tasks
    ]


def worlds(first: int, count: int) -> list[Image]:
    return [World(first + seed).scene(1.0).paint(320, 240) for seed in range(count)]


def run(engine: Engine, job: Job) -> Result:
    engine.admit([job])
    while not (results := engine.step()):
        pass
    return results[0]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("STATE_DIRECTORY", str(folder))
        yield folder


@pytest.fixture(scope="module")
def report(state: Path) -> dict[str, Any]:
    """The report on a caption task with enough words, and a detection with too few boxes for a judgement."""
    calibration = jobs(worlds(0, 6), "caption", "object_detection")
    images = worlds(100, 4)
    held_out = [*jobs(images, "caption"), *jobs(images[:1], "object_detection")]
    said: list[str] = []
    assert pipeline.quantize(SETTINGS, calibration, held_out, 0.7, said.append)
    file = store.folder_of(None) / store.REPORT
    assert said[-1] == f"report: {file}"
    assert any(line.startswith("object_detection does not use int8: only ") for line in said)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_report_compares_every_task(report: dict[str, Any]) -> None:
    assert report["frames"] == {"calibration": 6, "held_out": 4}
    assert report["tasks"]["caption"]["passed"]
    assert report["tasks"]["caption"]["words"] > 0.7
    assert not report["tasks"]["object_detection"]["passed"]


def test_only_passed_tasks_run_in_int8(report: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    engine = pipeline.open(SETTINGS)
    assert "int8" in engine.description
    (caption,), (detection,) = jobs(worlds(200, 1), "caption"), jobs(worlds(200, 1), "object_detection")
    assert run(engine, caption).outcome == "ok"
    assert "without int8" not in caplog.text
    assert run(engine, detection).outcome == "ok"
    assert "task object_detection runs without int8" in caplog.text
    assert "int8" not in pipeline.open(SETTINGS.model_copy(update={"int8": "off"})).description


def test_int8_model_is_for_its_number_type_only(report: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    engine = pipeline.open(SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    assert "int8" not in engine.description
    assert "it was compared with float32, not bfloat16" in caplog.text


def test_bad_calibration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales from black frames are far too small for frames that show something."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    black = [np.zeros((240, 320, 3), np.uint8) for _ in range(2)]
    said: list[str] = []
    passed = pipeline.quantize(SETTINGS, jobs(black, "caption"), jobs(worlds(100, 4), "caption"), 0.98, said.append)
    assert not passed
    assert "int8 is not used: no task passed" in said
    assert store.find(None, pipeline_files()) is None
    assert [path.name for path in store.folder_of(None).iterdir()] == [store.REPORT]
    assert "int8" not in pipeline.open(SETTINGS).description


def pipeline_files() -> Any:
    from pipelines.florence2.checkpoint_files import open_folder

    return open_folder(None)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"pip install 'florence-streamer\[quantize\]'"):
        pipeline.quantize(SETTINGS, [], [], 0.98, print)


def test_official_quality_is_not_quantized() -> None:
    some = jobs(worlds(0, 1), "caption", quality="official")
    with pytest.raises(ConfigError, match="stay in float32"):
        pipeline.quantize(SETTINGS, some, some, 0.98, print)


def test_no_usage_data_is_sent(report: dict[str, Any]) -> None:
    assert sys.modules["openvino_telemetry"] is None


def test_interrupted_quantization_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    def interrupt(line: str) -> None:
        if line.startswith("calibrating"):
            raise KeyboardInterrupt

    some = jobs(worlds(0, 1), "caption", max_tokens=4)
    with pytest.raises(KeyboardInterrupt):
        pipeline.quantize(SETTINGS, some, some, 0.98, interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
