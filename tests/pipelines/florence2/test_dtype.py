"""Choice of the number type: `dtype: auto`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.florence2 import dtype
from pipelines.florence2.dtype import choose

LARGE = 230_000_000
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "device", "parameters", "expected"),
    [
        ("auto", "cpu", 10_000_000, torch.float32),
        ("auto", "cuda", 10_000_000, torch.bfloat16),
        ("auto", "cuda", LARGE, torch.bfloat16),
        ("float32", "cuda", LARGE, torch.float32),
        ("float16", "cpu", LARGE, torch.float16),
        ("bfloat16", "cpu", LARGE, torch.bfloat16),
    ],
)
def test_choice_that_no_processor_decides(
    wanted: str, device: str, parameters: int, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(dtype, "_supports_bfloat16")
    monkeypatch.delattr(dtype, "_bfloat16_speed")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose(wanted, torch.device(device), parameters).dtype == expected


def test_card_without_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose("auto", torch.device("cuda", 0), LARGE) == (torch.float16, "the card has no bfloat16 instructions")


@pytest.mark.parametrize(
    ("machine", "onednn", "speed", "expected"),
    [
        ("AVX2: Core of the 4th to 11th generation, Ryzen 1000 to 5000", False, None, "float32"),
        ("AVX2 with VNNI: N100, Core of the 12th to 14th generation", False, None, "float32"),
        ("AVX2 with bfloat16 conversions only: Core Ultra 200", True, 1.0, "bfloat16"),
        ("AVX-512 without bfloat16: Xeon of the 1st and 2nd generation", True, 0.45, "float32"),
        ("AVX-512 with bfloat16: Ryzen 7000, EPYC 9004", True, 1.7, "bfloat16"),
        ("AMX: Xeon of the 4th generation", True, 6.0, "bfloat16"),
        ("ARM without bfloat16: Raspberry Pi 5", False, None, "float32"),
        ("ARM with bfloat16: Graviton 3", True, 2.0, "bfloat16"),
        ("ARM with bfloat16, slow convolutions", True, 0.5, "float32"),
        ("torch without oneDNN", False, None, "float32"),
    ],
)
def test_auto_takes_faster_type_on_each_processor(
    machine: str, onednn: bool, speed: float | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtype, "_supports_bfloat16", lambda: onednn)
    if speed is None:
        monkeypatch.delattr(dtype, "_bfloat16_speed")  # nothing is measured
    else:
        monkeypatch.setattr(dtype, "_bfloat16_speed", lambda: speed)
    choice = choose("auto", CPU, LARGE)
    assert str(choice.dtype) == f"torch.{expected}"
    assert "bfloat16" in choice.reason


def test_probe_keeps_threads_and_random_numbers() -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    assert dtype._bfloat16_speed() > 0
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the limits are names of x86 instruction sets")
@pytest.mark.parametrize(
    ("onednn", "aten", "needs", "expected"),
    [
        ("AVX2", "avx2", "", "float32"),
        ("AVX2_VNNI", "avx2", "", "float32"),
        ("AVX512_CORE", "avx512", "", "float32"),
        ("AVX512_CORE_BF16", "avx512", "avx512_bf16", "bfloat16"),
    ],
)
def test_auto_follows_limited_instruction_set(onednn: str, aten: str, needs: str, expected: str) -> None:
    if needs not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this processor has no {needs}")
    code = (
        "import torch\n"
        "from pipelines.florence2.dtype import choose\n"
        f"print(*choose('auto', torch.device('cpu'), {LARGE}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": aten},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"torch.{expected} "), done.stdout
