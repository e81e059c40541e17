"""Devices of a `model:` block: one inference process for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.florence2 import card_count
from pipelines.florence2 import pipeline as module
from pipelines.florence2.card_count import count_cards
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError


def names(**settings: object) -> list[str]:
    devices = pipeline.devices(Florence2Settings.model_validate(settings))
    assert all(device.settings.device == device.name for device in devices)
    return [device.name for device in devices]


def test_each_device_has_settings_of_its_own() -> None:
    assert names() == ["auto"]
    assert names(device="cuda") == ["cuda"]
    assert names(device=["cpu", "cpu"]) == ["cpu", "cpu"]
    (_, second) = pipeline.devices(Florence2Settings(device=("cuda:0", "cuda:1"), max_batch=3))
    assert second.settings == Florence2Settings(device="cuda:1", max_batch=3)
    assert Florence2Settings.model_validate(second.settings.model_dump(mode="json")) == second.settings


def test_auto_takes_all_cards_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for cards_found, devices in ((0, ["auto"]), (1, ["auto"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(module, "count_cards", lambda found=cards_found: found)
        assert names() == devices
        assert names(backend="openvino") == ["auto"]


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ([], "model.device"),
        (["cpu", "auto"], "model.device"),
        (["cuda:0", "cuda:1", "cuda:0"], "cuda:0 is in the list twice"),
        (["cpu", "openvino:GPU"], None),
    ],
)
def test_bad_lists_are_config_errors(device: list[str], problem: str | None) -> None:
    streams = {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}
    raw = {"model": {"device": device}, "streams": streams}
    if problem is None:
        from_mapping(raw)
        return
    with pytest.raises(ConfigError, match=problem):
        from_mapping(raw)


def test_cards_are_counted_without_torch_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_cards(tmp_path) == 0
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    assert count_cards(tmp_path) == 1
    (tmp_path / "nvidia1").touch()
    for printed, found in (("2", 2), ("", 0), ("x", 0)):
        monkeypatch.setattr(card_count, "_COUNT", f"print('{printed}')")
        assert count_cards(tmp_path) == found
    script = "import sys, pipelines.florence2.card_count; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
