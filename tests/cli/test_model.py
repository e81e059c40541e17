"""`streamer model`: the jobs that `quantize` gets, exit codes and errors. The model is not made here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from streamer.cli.model import quantize, use
from streamer.config.model import find_pipeline
from streamer.core.errors import ConfigError
from streamer.types import Job

CONFIG = """
streams:
  gate:
    source: {kind: synthetic, pace: file, seconds: 20}
    zones: {left: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
    tasks: [{task: caption, zone: left}, {task: open_vocabulary_detection, text: a red circle}]
  yard:
    source: {kind: synthetic, pace: file, seconds: 20, seed: 2}
    tasks: [{task: ocr}]
"""


class Recorded:
    """A pipeline's `quantize` that keeps its arguments and returns `passed`."""

    def __init__(self) -> None:
        self.passed = True

    def __call__(
        self,
        settings: Any,
        collect: Callable[[], tuple[Sequence[Job], Sequence[Job]]],
        floor: float,
        tell: Callable[..., None],
    ) -> bool:
        self.settings, self.floor = settings, floor
        self.calibration, self.held_out = collect()
        return self.passed


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(type(find_pipeline()), "quantize", staticmethod(recorded))
    return recorded


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "home.yaml").write_text(CONFIG)
    return tmp_path / "home.yaml"


def exit_code(**options: Any) -> int:
    with pytest.raises(typer.Exit) as ended:
        quantize(**{"frames": 3, "source": None, "every": "1s", "task": None, "floor": 0.98, "model": None, **options})
    return int(ended.value.exit_code)


def names(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    return [(job.due.stream, job.due.task.task) for job in jobs]


def test_each_stream_is_asked_its_own_tasks(recorded: Recorded, config: Path) -> None:
    assert exit_code(config=config) == 0
    gate = [("gate", "caption"), ("gate", "open_vocabulary_detection")]
    assert names(recorded.calibration) == [*gate, *gate, ("yard", "ocr"), ("yard", "ocr")]
    assert names(recorded.held_out) == [*gate * 3, *[("yard", "ocr")] * 3]


def test_zones_are_cropped(recorded: Recorded, config: Path) -> None:
    exit_code(config=config)
    caption, detection = recorded.held_out[:2]
    assert caption.frame.image.shape[1] * 2 == detection.frame.image.shape[1]


def test_another_source_is_asked_all_tasks(recorded: Recorded, config: Path) -> None:
    exit_code(config=config, source="synthetic?pace=file&seconds=20s")
    assert {name for _, name in names(recorded.held_out)} == {"caption", "open_vocabulary_detection", "ocr"}


def test_tasks_can_be_limited(recorded: Recorded, config: Path) -> None:
    exit_code(config=config, task=["ocr"], floor=0.5)
    assert set(names(recorded.held_out)) == {("yard", "ocr")}
    assert recorded.floor == 0.5


def test_without_a_config_tasks_need_no_input(recorded: Recorded) -> None:
    exit_code(config=None)
    found = {name for _, name in names(recorded.held_out)}
    assert "object_detection" in found
    assert "phrase_grounding" not in found
    assert "grounded_caption" not in found  # its stages run as other tasks
    assert "region_to_ocr" not in found


def test_exit_code_is_1_if_no_task_passed(recorded: Recorded) -> None:
    recorded.passed = False
    assert exit_code(config=None, task=["caption"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": ["captoin"]}, "--task: .*did you mean `caption`"),
        ({"task": ["phrase_grounding"]}, "--task: without a config"),
        ({"every": "soon"}, "--every: must be a duration"),
    ],
)
def test_wrong_option_is_an_error(recorded: Recorded, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        exit_code(config=None, **options)


def test_model_beside_a_config_is_an_error(recorded: Recorded, config: Path) -> None:
    with pytest.raises(ConfigError, match="--model: the config names the model"):
        exit_code(config=config, model="elsewhere")


def test_missing_agent_is_told_before_the_checkpoint_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="agent nobody is not running"):
        use(str(tmp_path / "missing"), None, "1m", "nobody")
