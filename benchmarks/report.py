"""Keeps a benchmark's result with what is needed to read it later: machine, commit, command, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return described.stdout.strip() or "unknown"


def write(name: str, result: dict[str, Any]) -> None:
    """Write `results/<name>.json` and say where."""
    RESULTS.mkdir(exist_ok=True)
    kept = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy", "av", "pyzmq")},
        "result": result,
    }
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"kept in {file}")
