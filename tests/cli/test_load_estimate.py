"""The estimated load of a config, and the warning above 100 %."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.cost_table import shipped_costs
from pipelines.florence2.tasks import SPECS
from streamer.cli import load_estimate
from streamer.cli.load_estimate import ModelId, describe, estimate
from streamer.config.model import Config, from_mapping
from streamer.inference.stream_load import FPS
from tests.support.clips import write_clip

CAMERA = "rtsp://10.0.0.1/cam"
INCLUDED: ModelId = None, None, None
"""The included model on the device `auto`."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder where costs are stored."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def agent(*tasks: dict[str, Any], source: Any = CAMERA, model: dict[str, Any] | None = None) -> Config:
    named = [{"name": f"t{number}", "task": "caption", **task} for number, task in enumerate(tasks)]
    return from_mapping({"model": model or {}, "streams": {"gate": {"source": source, "tasks": named}}})


@pytest.mark.parametrize(
    ("task", "source", "runs"),
    [
        ({"every": "500ms"}, CAMERA, 2.0),
        ({"every": "2s", "when": "motion"}, CAMERA, 0.5),
        ({"every": "2s", "between": "22:00-06:00"}, CAMERA, 0.5),
        ({"every_n_frames": 5}, CAMERA, FPS / 5),
        ({"every_n_frames": 5}, "synthetic?fps=10", 2.0),
        ({"at": "*/5 * * * *"}, CAMERA, 1 / 300),
        ({"at": "0,10 7 * * mon"}, CAMERA, 1 / 600),
        ({"at": "0 0 29 2 *"}, CAMERA, pytest.approx(0, abs=1e-7)),
        ({"every": "1s", "paused": True}, CAMERA, 0.0),
        ({"every": "1s"}, "synthetic?pace=file", 0.0),
    ],
)
def test_load_follows_the_run_rate(task: dict[str, Any], source: str, runs: Any) -> None:
    load_estimate.store_cost(INCLUDED, "caption", 0.1)
    load = estimate(agent(task, source=source))
    assert load is not None
    assert load.by_task["gate", "t0"] / 0.1 == pytest.approx(runs, abs=1e-9)


def test_measured_costs_replace_shipped_ones(home: Path) -> None:
    every = {"every": "1s"}
    load = estimate(agent(every))
    assert load is not None
    assert (load.total, load.is_measured) == (shipped_costs(None, None).seconds["caption"], False)
    assert "not on this computer: measure them with `streamer bench`" in "\n".join(describe(agent(every), load))
    load_estimate.store_cost(INCLUDED, "caption", 0.25)
    load_estimate.store_cost(INCLUDED, "ocr", 0.5)
    load_estimate.store_cost(("else/where", None, None), "caption", 9.0)
    load = estimate(agent(every, {"every": "1s", "task": "ocr"}))
    assert load is not None
    assert (load.total, load.is_measured, load.assumptions) == (0.75, True, ())
    assert dict(load.by_kind) == {"caption": 0.25, "ocr": 0.5}
    load = estimate(agent({"every": "1s", "task": "object_detection"}))
    assert load is not None
    assert load.total == 0.5, "an unmeasured task counts as the most expensive measured one"
    assert load.assumptions
    load_estimate.costs_file().write_text("[1, 2")
    load = estimate(agent(every))
    assert load is not None
    assert not load.is_measured


def test_included_model_has_a_cost_for_every_task() -> None:
    assert shipped_costs(None, None).seconds.keys() == SPECS.keys()


def test_grounded_caption_counts_all_its_prompts() -> None:
    for kind, cost in (("caption", 0.1), ("phrase_grounding", 0.01), ("region_to_description", 0.02)):
        load_estimate.store_cost(INCLUDED, kind, cost)
    config = agent({"every": "1s", "task": "grounded_caption"})
    load = estimate(config)
    assert load is not None
    assert load.total == pytest.approx(0.1 + 3 * 0.01 + 3 * 0.02)
    shown = "\n".join(describe(config, load))
    load_estimate.store_cost(INCLUDED, "grounded_caption", 0.15)
    measured = estimate(config)
    assert measured is not None
    assert measured.total == pytest.approx(0.15)
    assert not measured.assumptions
    assert "counts as 1 caption and 3 phrase_grounding and 3 region_to_description" in shown


def test_overload_warning_names_costs_and_fitting_intervals() -> None:
    load_estimate.store_cost(INCLUDED, "caption", 0.1)
    fits = agent({"every": "200ms"})
    assert "warning" not in "".join(describe(fits, estimate(fits)))
    busy = agent({"every": "100ms", "priority": "high"}, {"every": "200ms", "priority": "low"}, {"every": "10s"})
    text = "\n".join(describe(busy, estimate(busy)))
    assert "load: at most 151 % of the device" in text
    assert "warning: the tasks need more than the device can do. Most expensive: gate.t0 100 %, gate.t1 50 %" in text
    assert "every interval is 1.7 times as long" in text
    assert "high 1.1 times, normal 20.0 times, low 20.0 times" in text


def test_unknown_model_and_recording_have_no_estimate(tmp_path: Path) -> None:
    large = agent({"every": "1s"}, model={"checkpoint": "florence-community/Florence-2-large"})
    (line,) = describe(large, estimate(large))
    assert line.endswith("measure them with `streamer bench --model florence-community/Florence-2-large`")
    clip = agent({"every": "1s"}, source=str(write_clip(tmp_path / "clip.mp4")))
    (line,) = describe(clip, estimate(clip))
    assert "recordings use the whole device" in line


def test_each_image_size_has_costs_of_its_own() -> None:
    load_estimate.store_cost(("a/b", None, None), "caption", 9.0)
    small = agent({"every": "1s"}, model={"checkpoint": "a/b", "image_size": 384})
    (line,) = describe(small, estimate(small))
    assert line.endswith("measure them with `streamer bench --model a/b --image-size 384`")
    load_estimate.store_cost(("a/b", 384, None), "caption", 0.5)
    load = estimate(small)
    assert load is not None
    assert load.total == 0.5


def test_costs_of_named_device_go_before_those_of_auto() -> None:
    second = agent({"every": "1s"}, model={"device": "cuda:1"})
    load_estimate.store_cost(INCLUDED, "caption", 0.5)
    load = estimate(second)
    assert load is not None
    assert load.total == 0.5
    load_estimate.store_cost((None, None, "cuda:1"), "caption", 0.25)
    totals = [load.total for config in (second, agent({"every": "1s"})) if (load := estimate(config))]
    assert totals == [0.25, 0.5]


@pytest.mark.parametrize(("name", "own"), [(None, 192), ("florence-community/Florence-2-base-ft", 768)])
def test_shipped_costs_hold_for_the_measured_size_only(name: str | None, own: int) -> None:
    assert shipped_costs(name, own) == shipped_costs(name, None)
    assert shipped_costs(name, own).seconds
    assert not shipped_costs(name, 512).seconds


def test_streams_are_divided_among_devices(home: Path) -> None:
    load_estimate.store_cost(INCLUDED, "caption", 0.5)
    tasks = [{"task": "caption", "every": "1s"}]
    streams = {name: {"source": CAMERA, "tasks": tasks} for name in ("gate", "yard", "roof")}
    config = from_mapping({"model": {"device": ["cpu", "cpu"]}, "streams": streams})
    lines = list(describe(config, estimate(config)))
    assert lines[0] == "load: at most 150 % of one of 2 devices (caption 150 %)"
    assert lines[1:3] == ["  cpu: 100 % (gate, yard)", "  cpu: 50 % (roof)"]
    assert not any("warning" in line for line in lines)


def test_stages_of_a_task_are_counted_and_named() -> None:
    load_estimate.store_cost(INCLUDED, "phrase_grounding", 0.1)
    load_estimate.store_cost(INCLUDED, "region_to_description", 0.05)
    search = {"every": "1s", "task": "phrase_grounding", "text": "a red car"}
    config = agent(search, {**search, "confirm": True})
    load = estimate(config)
    assert load is not None
    assert load.by_task["gate", "t0"] == pytest.approx(0.1)
    assert load.by_task["gate", "t1"] == pytest.approx(0.2)
    assert load.assumptions == (
        "gate.t1 has several stages and counts as 1 phrase_grounding and 2 region_to_description",
    )


def test_follow_ups_are_counted_apart() -> None:
    for kind, seconds in (("object_detection", 0.2), ("region_to_ocr", 0.1), ("region_to_category", 0.01)):
        load_estimate.store_cost(INCLUDED, kind, seconds)
    read = {"task": "region_to_ocr", "most": 2}
    known = {"task": "region_to_category", "name": "known", "on": "new_tracks", "refresh": "10s", "most": 5}
    once = {"task": "region_to_category", "name": "once", "on": "new_tracks"}
    config = agent({"task": "object_detection", "every": "1s", "then": [read, known, once]})
    load = estimate(config)
    assert load is not None
    assert load.total == 0.2
    assert load.follow_ups == pytest.approx(1 * 2 * 0.1 + 5 / 10 * 0.01)
    text = "\n".join(describe(config, load))
    assert "follow-ups (`then`): at most 20 % more, in the time that is left" in text
    assert "of follow-ups with `on: new_tracks`, only those after `refresh` are counted" in text
