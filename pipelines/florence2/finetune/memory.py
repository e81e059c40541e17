"""Memory of a training run: the bytes in use, their peak, and the need of a run before it begins."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from pipelines.florence2.finetune.settings import TrainingSettings
from streamer.core.errors import ConfigError
from streamer.core.malloc import release_unused

COPIES = 4
"""Further float32 values for each trained weight: AdamW's two moments, the averaged weights, and the best of these."""
_PROCESS = Path("/proc/self")


class Peak:
    """Peak of the memory that this process uses on a device, from now on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        release_unused()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):  # some containers forbid it; then an earlier, higher peak hides a lower one
                (_PROCESS / "clear_refs").write_text("5")
        self._before = self.bytes

    @property
    def rise(self) -> int:
        """Bytes by which the peak is above the memory that was in use."""
        return self.bytes - self._before

    @property
    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def check_room(fixed: int, example: int, examples: int, free: int, settings: TrainingSettings) -> None:
    """Raise ConfigError if a run needs more bytes than are free: `fixed`, and `example` for each of these examples."""
    need = fixed + examples * example
    if need <= free:
        return
    most = max(0, free - fixed) // max(1, example)
    options = " and ".join(f"--{name}" for name in ("full", "vision") if getattr(settings, name))
    others = f"leave out {options}, use" if options else "use"
    lower = (
        f"use --batch {most} or less"
        if most
        else f"--batch 1 is too much; {others} a smaller checkpoint, or free memory"
    )
    raise ConfigError(f"training needs {need / 1e9:.2f} GB more memory, and {free / 1e9:.2f} GB are free: {lower}")
