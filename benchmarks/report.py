"""Writes benchmark results to `benchmarks/results/`, with command, commit, machine and versions."""

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
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx_vnni", "avx2")
"""Names in /proc/cpuinfo of the instructions that decide about the speed of products."""


def _processor() -> str:
    """Return the processor's name and those of `INSTRUCTIONS` that it has."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    found = [one for one in INSTRUCTIONS if one in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.processor())} ({', '.join(found)})"


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    )
    return described.stdout.strip() or "unknown"


def _command() -> str:
    is_module = sys.orig_argv[1] == "-m"
    return " ".join([*sys.orig_argv[1:3], *sys.argv[1:]] if is_module else [Path(sys.argv[0]).name, *sys.argv[1:]])


def _stamped(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": _command(),
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, no GPU",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy", "av", "pyzmq")},
        "result": result,
    }


def _save(name: str, content: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {file}")


def write(name: str, result: dict[str, Any]) -> None:
    """Write `results/<name>.json`."""
    _save(name, _stamped(result))


def merge(name: str, results: dict[str, dict[str, Any]]) -> None:
    """Replace some results in `results/<name>.json`, each with its own machine and commit; the others stay."""
    file = RESULTS / f"{name}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    _save(name, {**before, **{key: _stamped(result) for key, result in results.items()}})
