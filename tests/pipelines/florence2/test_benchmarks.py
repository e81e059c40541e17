"""Measurement of `streamer bench` with the Florence-2 engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.florence2.architecture import Architecture
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.speed import comparison, table
from pipelines.florence2.speed.floors import PEAKS, work
from pipelines.florence2.speed.random_checkpoint import SIZES
from pipelines.florence2.tasks import SPECS
from streamer.cli.bench import Rate, bench, measure, report
from streamer.core.errors import ConfigError


@pytest.mark.parametrize("kind", ["plain", "fast"])
def test_bench_measures_rate_of_engine(checkpoint: Any, kind: Any) -> None:
    engine = pipeline.open(Florence2Settings(checkpoint=str(checkpoint), device="cpu", engine=kind))
    tasks = ["caption", "phrase_grounding", "region_to_ocr"]
    rates = [measure(engine, SPECS[task], 0.05) for task in tasks]
    assert [rate.task for rate in rates] == tasks
    assert all(rate.answers >= 8 and rate.seconds >= 0.05 and rate.errors == 0 for rate in rates)
    assert engine.free() == 8
    if isinstance(engine, FastEngine):
        assert engine.image_cache.misses >= sum(rate.answers for rate in rates), "no frame was in the cache"


def test_bench_shows_how_the_model_runs(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    bench(str(checkpoint), ["caption"], "1s", 0.1)
    assert capsys.readouterr().out.startswith("small: fast engine on ")


def test_bench_with_device_compares_with_transformers(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(comparison, "WORKS", {"pair": {"caption": 5, "object_detection": 8}})
    monkeypatch.setattr(table, "CPU_FRAMES", 2)
    bench(str(checkpoint), ["caption"], "1s", 0.05, None, "cpu", tmp_path / "bench.json")
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "bench.json").read_text())["compared"]["small"]
    step = found["launches"].pop("decode step, 8 rows")
    assert step.pop("total") == sum(step.values())
    assert {"vision tower, 1 frames", "decode step, 8 rows, drafts"} < found["launches"].keys()
    assert found["machine"]["torch"] == torch.__version__
    sides = {row["side"] for row in found["rows"]}
    assert sides == {"transformers", "streamer"}
    assert {row["batch"] for row in found["rows"]} <= {1, 2}
    assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["answers_per_s"] > 0 for row in found["rows"])
    assert all(row["floor_answers_per_s"] is None for row in found["rows"]), "a CPU has no data sheet"
    assert found["ratios"]["pair"]["one frame"] > 0
    assert "floors unknown" in shown
    assert "unknown" in shown
    costs = json.loads((tmp_path / "streamer" / "costs.json").read_text())
    assert list(costs) == [f"{checkpoint} on cpu"]


def test_bench_refuses_unknown_device(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device: "):
        bench(str(checkpoint), ["caption"], "1s", 0.1, None, "gpu")
    with pytest.raises(ConfigError, match="--json: needs --device"):
        bench(str(checkpoint), ["caption"], "1s", 0.1, None, None, tmp_path / "bench.json")
    with pytest.raises(ConfigError, match="--json: cannot write"):
        bench(str(checkpoint), ["caption"], "1s", 0.1, None, "cpu", tmp_path / "missing" / "bench.json")


@pytest.mark.parametrize(
    ("size", "vision", "encoder", "token", "step"),
    [("base", 380, 64.7, 0.189, 178), ("large", 1488, 224.5, 0.486, 457)],
)
def test_floors_count_published_architectures(
    size: str, vision: float, encoder: float, token: float, step: float
) -> None:
    config = {
        "text_config": {"vocab_size": 51328, **SIZES[size]["text_config"]},
        "vision_config": SIZES[size]["vision_config"],
    }
    counted = work(Architecture.read(size, config), 768, 768, 12, 15)
    # Counted by torch's FlopCounterMode on the model of transformers.
    assert counted.vision == pytest.approx(vision * 1e9, rel=0.01)
    assert counted.encoder == pytest.approx(encoder * 1e9, rel=0.01)
    assert counted.token == pytest.approx(token * 1e9, rel=0.01)
    assert counted.step_bytes == pytest.approx(step * 1e6, rel=0.01)
    card = PEAKS["NVIDIA H200"]
    one, many = counted.seconds(card, [15], 1), counted.seconds(card, [15], 64) / 64
    assert (counted.vision + counted.encoder) / card.flops < many < one


def test_forced_answers_have_no_end() -> None:
    forced = comparison.forced({"eos_token_id": 2, "forced_eos_token_id": 2, "suppress_tokens": [7], "num_beams": 3})
    assert forced == {"eos_token_id": 2, "suppress_tokens": [2, 7], "num_beams": 3}


def test_bench_table_shows_cameras_at_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = Rate("caption", answers=50, seconds=20.0, errors=1)
    assert rate.per_second == 2.5
    assert [rate.cameras(every) for every in (0.1, 1.0, 10.0)] == [0, 2, 25]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    report((None, None, None), [rate], 10.0)
    shown = capsys.readouterr().out.splitlines()
    assert "cameras every 10 s" in shown[0]
    assert shown[1].split() == ["caption", "2.50", "25", "1"]


@pytest.mark.parametrize(("best", "expected"), [(4, [1, 4, 16]), (64, [1, 4, 16]), (1, [1, 4])])
def test_batch_grows_while_it_is_worth_it(best: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "WORKS", {"caption": {"caption": 15}})

    def measure(tokens: object, batch: int, seconds: float) -> tuple[float, list[float]]:
        if batch > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return max(1.0, batch / best), [0.1] * batch

    config = {"text_config": SIZES["base"]["text_config"], "vision_config": SIZES["base"]["vision_config"]}
    count = work(Architecture.read("base", config), 768, 768, 12, 15)
    found = list(comparison.rows("streamer", measure, count, comparison.Limits(1.0, 128, PEAKS["NVIDIA L4"])))
    assert [row.batch for row in found] == expected
    assert max(row.answers_per_s for row in found) == pytest.approx(min(best, 16))
    floors = [row.floor_answers_per_s or 0.0 for row in found]
    assert floors == sorted(floors), "a larger batch reads the weights less often per answer"
    assert 60 < floors[0] < 90, "121 TFLOP/s for 445 GFLOP, 300 GB/s for 15 steps"
    assert "%" in str(found[0])
