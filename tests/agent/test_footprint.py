"""Imports of the processes of a whole agent, and the memory of a camera."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.agents import RunningAgent
from tests.support.process_memory import memory_of

START_S = 120.0
"""Longest start of an agent, on a machine with much other work."""
LARGE = {"torch", "transformers", "scipy", "supervision", "trackers", "openvino", "nncf", "huggingface_hub", "PIL"}
"""Packages whose import takes long or much memory."""


CAMERA_MB = 30
"""Memory of a capture process that no other process shares. Measured: 17 to 26, by the pages that both sides touch."""


def test_children_import_and_keep_only_what_they_need(tmp_path: Path) -> None:
    """Captions by the shipped model, which have no boxes to track."""
    with RunningAgent(tmp_path, ["watch", "synthetic", "--task", "caption", "--every", "100ms"]) as agent:
        agent.wait_for_results(3, START_S)
        children = agent.children()
        camera = private_memory(children["capture:watch"])  # first: reading all its memory makes it grow
        imported = {name: imported_packages(pid) & LARGE for name, pid in children.items()}
    assert camera < CAMERA_MB * 1e6
    assert imported == {"infer": {"torch"}, "emit": set(), "capture:watch": set()}


def imported_packages(pid: int) -> set[str]:
    """Return the packages of which a process has modules in memory, beside their `__init__`: that may be a search."""
    paths = re.findall(rb"/site-packages/(\w+)/(?!__init__)[\w/]+\.py\0", memory_of(pid))
    return {path.decode() for path in paths}


def private_memory(pid: int) -> int:
    """Return the bytes that only this process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
