"""Quantization of the shipped model: what passes is used, what is refused is not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.florence2 import pipeline as module
from pipelines.florence2.int8 import engine as int8_engine
from pipelines.florence2.int8 import gate, store
from pipelines.florence2.int8 import quantize as quantizing
from pipelines.florence2.int8.speed import Speed
from pipelines.florence2.pipeline import Florence2Settings, open_engine, pipeline
from pipelines.florence2.tasks import SPECS
from pipelines.florence2.weights import StoredWeight
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Answer, DueTask, Engine, Frame, Image, Job, Result, Task

pytestmark = pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra quantize")

SETTINGS = Florence2Settings(device="cpu")
FASTER, SLOWER = Speed(usual_s=0.2, int8_s=0.1, ratio=0.5), Speed(usual_s=0.1, int8_s=0.2, ratio=2.0)


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


def quantize(calibration: list[Job], held_out: list[Job], floor: float, tell: Callable[[str], None] = print) -> bool:
    return pipeline.quantize(SETTINGS, lambda: (calibration, held_out), floor, tell)


@pytest.fixture(scope="module")
def report(state: Path) -> Iterator[dict[str, Any]]:
    """The report on a caption task with enough words, and a detection with too few boxes for a judgement."""
    with pytest.MonkeyPatch.context() as patch:
        # The small model is not faster in int8, and the tests' computer is busy.
        patch.setattr(quantizing, "compare_speed", lambda *_: FASTER)
        patch.setattr(quantizing, "compare_parts", lambda *_: {"vision": FASTER, "encoder": FASTER})
        patch.setattr(gate, "MIN_ITEMS", 5)
        calibration = jobs(worlds(0, 3), "caption", "object_detection")
        images = worlds(100, 3)
        held_out = [*jobs(images, "caption"), *jobs(images[:1], "object_detection")]
        said: list[str] = []
        assert quantize(calibration, held_out, 0.3, said.append)
        file = store.folder_of(None) / store.REPORT
        assert said[-1] == f"report: {file}"
        assert any(line.startswith("object_detection does not use int8: ") for line in said)
        yield json.loads(file.read_text())


def test_report_compares_every_task(report: dict[str, Any]) -> None:
    assert report["frames"] == {"calibration": 3, "held_out": 3}
    caption = report["tasks"]["caption"]
    assert caption["passed"]
    assert caption["words"] > 0.7
    assert (caption["usual_s"], caption["int8_s"]) == (0.2, 0.1)
    assert not report["tasks"]["object_detection"]["passed"]


def test_only_passed_tasks_run_in_int8(report: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engine = pipeline.open(SETTINGS)
    assert "int8" in engine.description
    assert not engine.warnings
    (caption,), (detection,) = jobs(worlds(200, 1), "caption"), jobs(worlds(200, 1), "object_detection")
    assert run(engine, caption).outcome == "ok"
    assert "without int8" not in caplog.text
    assert run(engine, detection).outcome == "ok"
    assert "task object_detection runs without int8" in caplog.text
    assert "int8" not in pipeline.open(SETTINGS.model_copy(update={"int8": "off"})).description


def test_other_tasks_have_the_answers_of_the_usual_engine(report: dict[str, Any]) -> None:
    (detection,) = jobs(worlds(300, 1), "object_detection")
    expected = run(pipeline.open(SETTINGS.model_copy(update={"int8": "off"})), detection).answer
    assert run(pipeline.open(SETTINGS), detection).answer == expected


def test_no_file_is_read_for_another_task(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines are there from the start: opening one later would stop all streams."""
    engine = pipeline.open(SETTINGS)
    monkeypatch.setattr(StoredWeight, "read", None)
    (detection,) = jobs(worlds(200, 1), "object_detection")
    assert run(engine, detection).outcome == "ok"


def test_auto_opens_no_second_openvino_model(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_one(settings: Florence2Settings, **_: Any) -> Any:
        opened.append(settings.backend)
        return engine

    engine = open_engine(SETTINGS.model_copy(update={"int8": "off"}))
    monkeypatch.setattr(module, "open_engine", open_one)
    assert "int8" in pipeline.open(SETTINGS).description
    monkeypatch.setattr(int8_engine, "TOLERANCE", 0.0)
    assert pipeline.open(SETTINGS).warnings[0].startswith(f"int8 model of {engine.model} is not used: it does not work")
    assert opened == ["torch", "torch", "auto"]


def test_refused_model_is_a_warning(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(store.folder_of(None).parent, tmp_path / store.FOLDER)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    next(store.folder_of(None).glob("vision-*.bin")).write_bytes(b"")
    engine = pipeline.open(SETTINGS)
    assert "int8" not in engine.description
    (warning,) = engine.warnings
    assert warning.startswith(f"int8 model of {engine.model} is not used: its file ")
    assert "streamer model quantize" in warning


def test_model_that_openvino_cannot_read_is_a_warning(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    models = {}
    for name in ("vision", "encoder"):
        models[name] = tmp_path / f"{name}.xml"
        models[name].write_text("<net>" + "9" * 1000)
        models[name].with_suffix(".bin").write_bytes(b"")
    store.write(store.folder_of(None), models, report)
    (warning,) = pipeline.open(SETTINGS).warnings
    assert "is not used: OpenVINO does not run it" in warning


def test_without_openvino_the_install_command_is_named(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (warning,) = pipeline.open(SETTINGS).warnings
    assert "the int8 model needs the package openvino: run `pip install 'florence-streamer[openvino]'`" in warning


def test_without_an_int8_model_there_is_no_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert not pipeline.open(SETTINGS).warnings


def test_int8_model_is_for_its_number_type_only(report: dict[str, Any]) -> None:
    engine = pipeline.open(SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    assert "int8" not in engine.description
    assert "it was compared with float32, the model runs in bfloat16" in engine.warnings[0]


def test_bad_calibration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales from black frames are far too small for frames that show something."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(quantizing, "CANDIDATES", [("vision", "encoder")])
    monkeypatch.setattr(quantizing, "compare_parts", lambda *_: {"vision": FASTER, "encoder": FASTER})
    black = [np.zeros((240, 320, 3), np.uint8) for _ in range(2)]
    said: list[str] = []
    assert not quantize(jobs(black, "caption"), jobs(worlds(100, 2), "caption"), 0.98, said.append)
    assert "int8 is not used: no task passed" in said
    assert [path.name for path in store.folder_of(None).iterdir()] == [store.REPORT]
    engine = pipeline.open(SETTINGS)
    assert "int8" not in engine.description
    assert "is not used: no task passed the comparison" in engine.warnings[0]


@pytest.mark.parametrize(
    ("vision", "encoder", "chosen"), [(FASTER, SLOWER, {"vision"}), (SLOWER, FASTER, set())], ids=["encoder", "vision"]
)
def test_part_that_is_slower_stays_as_it_is(
    vision: Speed, encoder: Speed, chosen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[set[str]] = []

    class Engine:
        model = description = "tiny"
        decoder = SimpleNamespace(dtype="torch.float32")

    def build(usual: object, models: dict[str, Path]) -> Engine:
        built.append(set(models))
        return Engine()

    monkeypatch.setattr(quantizing, "build_engine", build)
    monkeypatch.setattr(quantizing, "answers", lambda *_: [gate.Generated((), Answer(text="a dog"))] * 200)
    monkeypatch.setattr(quantizing, "compare_parts", lambda *_: {"vision": vision, "encoder": encoder})
    monkeypatch.setattr(quantizing, "compare_speed", lambda *_: FASTER)
    models = {name: Path(name) for name in ("vision", "encoder")}
    said: list[str] = []
    found = quantizing._judge(lambda _: Engine(), models, jobs(worlds(0, 1), "caption") * 200, 0.98, said.append)
    assert said[:2] == [f"{name}: {1000 * speed.int8_s:.0f} ms in int8, {1000 * speed.usual_s:.0f} ms without"
                        for name, speed in (("vision", vision), ("encoder", encoder))]  # fmt: skip
    assert (set(found.models), built[1:]) == (chosen, [chosen] if chosen else [])
    caption = found.report["tasks"]["caption"]
    assert caption["passed"] == bool(chosen)
    if not chosen:
        assert "the vision tower stays as it is on this computer: it is not faster: it takes 2.00" in caption["reason"]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ConfigError, match=r"pip install 'florence-streamer\[quantize\]'"):
        pipeline.quantize(SETTINGS, lambda: pytest.fail("frames were read"), 0.98, print)


def test_official_quality_is_not_quantized() -> None:
    some = jobs(worlds(0, 1), "caption", quality="official")
    with pytest.raises(ConfigError, match="stay in float32"):
        quantize(some, some, 0.98)


def test_no_usage_data_is_sent(report: dict[str, Any]) -> None:
    assert sys.modules["openvino_telemetry"] is None


def test_interrupted_quantization_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    def interrupt(line: str) -> None:
        if line.startswith("calibrating"):
            raise KeyboardInterrupt

    some = jobs(worlds(0, 1), "caption", max_tokens=4)
    with pytest.raises(KeyboardInterrupt):
        quantize(some, some, 0.98, interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
