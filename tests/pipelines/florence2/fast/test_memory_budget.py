"""Memory on a card: its share, the sizes that fit into it, and the limit for allocations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipelines.florence2.fast import memory_budget
from pipelines.florence2.fast.decode_batch import PROMPT_ROOM
from pipelines.florence2.fast.memory_budget import MARGIN, Forecast, Room, available, fit, limit
from pipelines.florence2.pipeline import Florence2Settings
from streamer.core import memory
from streamer.core.errors import ConfigError

CARD = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Memory of a card of 1000 bytes, which torch is told about."""
    memory = {"free": 950, "total": 1000, "reserved": 0}
    module = SimpleNamespace(
        mem_get_info=lambda device: (memory["free"], memory["total"]),
        memory_reserved=lambda device: memory["reserved"],
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    return memory


def needs(frames: int) -> Forecast:
    return Forecast(row=40, work=50 * frames)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, "much"])
def test_share_outside_zero_to_one_is_refused(share: Any) -> None:
    with pytest.raises(ValidationError, match="gpu_memory"):
        Florence2Settings(gpu_memory=share)


def test_share_counts_what_the_engine_already_holds(card: dict[str, int]) -> None:
    assert available(CARD, 0.9) == 900
    card.update(free=650, reserved=300)  # the weights
    assert available(CARD, 0.9) == 600
    card.update(free=100)  # another program has the rest
    assert available(CARD, 0.9) == 100


def test_each_row_needs_the_encoder_on_a_card() -> None:
    """On a CPU, rows go through the encoder one by one."""
    text: Any = SimpleNamespace(d_model=10, encoder_ffn_dim=40)
    vision: Any = SimpleNamespace(tokens=20, peak=1000)
    sizes = {"depth": 2, "heads": 2, "width": 5, "vocabulary": 100, "dtype": torch.bfloat16}
    on_cpu, on_card = (
        memory_budget.forecast(SimpleNamespace(**sizes, device=device), vision, text, 50, 1, 8, 4)  # type: ignore[arg-type]
        for device in (torch.device("cpu"), CARD)
    )
    assert on_card.row - on_cpu.row == 2 * (20 + PROMPT_ROOM) * (6 * 10 + 2 * 40)
    assert on_card.work == on_cpu.work


def test_short_memory_takes_rows_before_frames(card: dict[str, int]) -> None:
    """One frame at a time is slower by more than fewer answers are."""
    assert fit(Room(8, 8), "small", needs, CARD, 0.9) == Room(8, 8)
    assert fit(Room(64, 8), "small", needs, CARD, 0.9) == Room(int((900 * MARGIN - 8 * 50) // 40), 8)
    card.update(free=450)
    assert fit(Room(64, 8), "small", needs, CARD, 0.9) == Room(int((450 * MARGIN - 4 * 50) // 40), 4)
    card.update(free=100)
    assert fit(Room(64, 8), "small", needs, CARD, 0.9) == Room(1, 1)
    card.update(free=90)
    with pytest.raises(ConfigError, match="one answer at a time, but cuda:0 has"):
        fit(Room(64, 8), "small", needs, CARD, 0.9)


def test_card_refuses_allocations_above_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    limit(CARD, 0.5)
    limit(torch.device("cpu"), 0.5)
    assert limits == [(0.5, CARD)]


def test_halves_end_at_one_row() -> None:
    assert Room(5, 8).half == Room(2, 4)
    assert Room(2, 1).half == Room(1, 1)
    assert Room(1, 1).half is None
    assert [str(Room(8, 4)), str(Room(3, 1))] == ["8 answers and 4 frames", "3 answers"]
    assert memory_budget.available(torch.device("cpu")) > 1e6


def test_files_kept_in_memory_count_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3900000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 3000000\nactive_file 500000\n")
    assert available(torch.device("cpu")) == 3_100_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available(torch.device("cpu")) > 4_000_000
