"""NVIDIA cards as their kernel driver lists them, whatever the libraries of a process can use."""

from __future__ import annotations

import re
from pathlib import Path

PROC = Path("/proc/driver/nvidia")
"""Folder of the driver: its version, and a folder per card."""
DEVICES = Path("/dev")
"""Folder of the files through which a process uses the cards."""


def driver_version() -> str | None:
    """Return the version of the driver, None without one."""
    try:
        text = (PROC / "version").read_text()
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+[.\d]*)\s", text)
    return found[1] if found else "unknown"


def cards() -> list[str]:
    """Return the names of the cards."""
    return [_name(path) for path in sorted(PROC.glob("gpus/*/information"))]


def closed_devices() -> list[Path]:
    """Return the device files that this process must not open."""
    found = [*DEVICES.glob("nvidia[0-9]*"), *DEVICES.glob("nvidiactl")]
    return sorted(path for path in found if not _can_open(path))


def _name(information: Path) -> str:
    try:
        found = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
    except OSError:
        return "unknown"
    return found[1].strip() if found else "unknown"


def _can_open(path: Path) -> bool:
    try:
        with path.open("r+b"):
            return True
    except OSError:
        return False
