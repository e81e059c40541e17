"""The graphics card that a model runs on: its name, memory, driver and the libraries of torch, for users."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

_DRIVER = Path("/proc/driver/nvidia")
"""Folder of NVIDIA's kernel driver: its version, and a folder per card, whatever torch can use."""


class Card(NamedTuple):
    """A CUDA device."""

    name: str
    memory: int
    """Bytes."""
    capability: str
    """Generation of its instructions, such as 9.0."""

    def __str__(self) -> str:
        return f"{self.name}, {self.memory / 1e9:.0f} GB"


def card_of(device: torch.device) -> Card | None:
    """Return the card of a CUDA device, None for another device."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    return Card(found.name, found.total_memory, f"{found.major}.{found.minor}")


def driver_version() -> str | None:
    """Return the version of NVIDIA's kernel driver, None without one."""
    try:
        text = (_DRIVER / "version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*([\d.]+)", text)
    return found[1] if found else "unknown"


def unused_card() -> str | None:
    """Return why torch uses no CUDA device although NVIDIA's driver has one, None if it has none or torch uses it."""
    if torch.cuda.is_available() or not any((_DRIVER / "gpus").glob("*")):
        return None
    driver = f"an NVIDIA card with driver {driver_version() or 'unknown'} is present"
    if torch.version.cuda is None:
        return f"{driver}, but torch {torch.__version__} is built without CUDA: install torch from PyPI"
    return f"{driver}, but torch {torch.__version__} for CUDA {torch.version.cuda} cannot use it: update the driver"
