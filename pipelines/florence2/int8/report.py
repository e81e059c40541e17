"""The report of `streamer model quantize` as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COLUMNS = (
    *(("tokens", "tokens"), ("shapes", "shapes"), ("IoU", "mean_iou"), ("labels", "labels"), ("words", "words")),
    *(("statem.", "statements"), ("usual s", "usual_s"), ("int8 s", "int8_s")),
)
"""Heads and keys of the rows."""


def lines(report: dict[str, Any], file: Path) -> Iterator[str]:
    """Yield the table of a report stored in `file`, the tasks that do not use int8, and what follows."""
    frames, floor = report["frames"], report["floor"]
    yield f"int8 beside float32 on {frames['held_out']} held-out frames: share that is equal; seconds per answer"
    yield f"{'task':28}" + "".join(f"{head:>9}" for head, _ in _COLUMNS)
    for name, row in report["tasks"].items():
        cells = ("-" if row.get(key) is None else f"{row[key]:.3f}" for _, key in _COLUMNS)
        yield f"{name:28}" + "".join(f"{cell:>9}" for cell in cells)
    yield f"usual engine: {report['usual']}"
    yield f"int8 engine: {report['engine']}"
    passed = [name for name, row in report["tasks"].items() if row["passed"]]
    for name, row in report["tasks"].items():
        if not row["passed"]:
            yield f"{name} does not use int8: {row['reason']}"
    if passed:
        yield f"int8 is used from the next start for: {', '.join(passed)} (floor {floor:g})"
    else:
        yield "int8 is not used: no task passed"
    yield f"report: {file}"
