"""Measurement of `streamer bench` with the Florence-2 engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.tasks import SPECS
from streamer.cli.bench import Rate, bench, measure, report


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


def test_bench_table_shows_cameras_at_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = Rate("caption", answers=50, seconds=20.0, errors=1)
    assert rate.per_second == 2.5
    assert [rate.cameras(every) for every in (0.1, 1.0, 10.0)] == [0, 2, 25]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    report(None, None, [rate], 10.0)
    shown = capsys.readouterr().out.splitlines()
    assert "cameras every 10 s" in shown[0]
    assert shown[1].split() == ["caption", "2.50", "25", "1"]
