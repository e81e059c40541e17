"""Cards that the NVIDIA driver lists, and what the doctor says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.florence2.card import unused_card
from streamer.cli.doctor_host import graphics_cards
from streamer.core import nvidia

VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (archlinux)\n"
INFORMATION = "Model: \t\t NVIDIA L4\nIRQ:   \t\t 87\nGPU UUID: \t GPU-0\nBus Type: \t PCIe\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a driver with one card."""
    monkeypatch.setattr(nvidia, "PROC", tmp_path / "nvidia")
    monkeypatch.setattr(nvidia, "DEVICES", tmp_path)
    (tmp_path / "nvidia" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "nvidia" / "version").write_text(VERSION)
    (tmp_path / "nvidia" / "gpus" / "0000:01:00.0" / "information").write_text(INFORMATION)
    return tmp_path


def findings() -> list[str]:
    nothing: Any = None
    return [str(finding) for finding in graphics_cards(nothing, nothing)]


def test_computer_without_driver_has_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "PROC", tmp_path)
    assert nvidia.driver_version() is None
    assert findings() == []
    assert unused_card() is None


def test_doctor_names_driver_and_card(driver: Path) -> None:
    assert findings() == ["ok    NVIDIA driver 570.86.15: NVIDIA L4"]


def test_doctor_warns_of_device_file_that_cannot_be_opened(driver: Path) -> None:
    (driver / "nvidia0").mkdir()  # the tests may run as root, who can open any file
    (driver / "nvidiactl").touch()
    (line,) = findings()
    assert line.startswith(f"warn  NVIDIA driver 570.86.15: NVIDIA L4: this user cannot open {driver}/nvidia0 -> ")


def test_doctor_warns_of_driver_without_card(driver: Path) -> None:
    (driver / "nvidia" / "gpus" / "0000:01:00.0" / "information").unlink()
    (line,) = findings()
    assert line.startswith("warn  NVIDIA driver 570.86.15: it finds no card -> ")


def test_card_that_torch_cannot_use_has_a_reason(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert f"NVIDIA L4 with driver 570.86.15 is present, but torch {torch.__version__} is built" in str(unused_card())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "for CUDA 13.0 cannot use it: update the driver" in str(unused_card())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert unused_card() is None
