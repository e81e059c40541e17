"""Accuracy of the shipped model in int8 beside float32, by task: `python -m benchmarks.int8`.

The int8 model is calibrated on toy worlds, and the gate judges it on others, as `streamer model quantize` does. Then
both models are measured on the worlds of `benchmarks.accuracy`. A task that the gate offers in int8 must lose at most
one point of recall and of precision. The decoder's weights are int8 too, as in a large model on a CPU without bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import chain, zip_longest
from typing import Any

from benchmarks.accuracy import JUDGES, jobs, measure
from benchmarks.report import write
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.int8 import store, weights
from pipelines.florence2.int8.engine import build_engine
from pipelines.florence2.int8.gate import FLOOR
from pipelines.florence2.pipeline import Florence2Settings, open_engine, pipeline
from streamer.types import Job

CALIBRATION_SEED, GATE_SEED = 810_000, 820_000
"""Numbers of the first worlds for calibration and for the gate; `benchmarks.accuracy` begins at 500,000."""
LOSS = 0.01
"""Recall and precision that an offered task may lose."""
SETTINGS = Florence2Settings(device="cpu", dtype="float32", engine="fast")


def examples(tasks: list[str], scenes: int, first_seed: int) -> list[Job]:
    """Return jobs of all tasks, the tasks in turn."""
    by_task = [[job for job, _, _ in jobs(task, scenes, first_seed=first_seed)] for task in tasks]
    return [job for job in chain.from_iterable(zip_longest(*by_task)) if job is not None]


def offered(row: dict[str, Any]) -> bool:
    """Return whether a task passes with the default floor; `row` is of a report with the floor 0."""
    return bool(row["passed"]) and min(row[key] for key in ("shapes", "words") if row[key] is not None) >= FLOOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200, help="scenes per task [200]")
    parser.add_argument("--frames", type=int, default=32, help="frames per task for the gate; as many calibrate [32]")
    parser.add_argument("--tasks", nargs="*", default=list(JUDGES), choices=list(JUDGES), help="tasks to run [all]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/int8.json")
    args = parser.parse_args()
    weights.MIN_NUMBERS = 0  # the small model's decoder would stay in float32
    with tempfile.TemporaryDirectory() as state:
        os.environ["STATE_DIRECTORY"] = state
        calibration, judged = (examples(args.tasks, args.frames, seed) for seed in (CALIBRATION_SEED, GATE_SEED))
        pipeline.quantize(SETTINGS, calibration, judged, 0.0, print)  # the floor 0 keeps the model of refused tasks too
        gate = json.loads((store.folder_of(None) / store.REPORT).read_text())
        found = store.find(None, open_folder(None))
        assert found is not None
        float32, int8 = open_engine(SETTINGS), build_engine(open_engine(SETTINGS), found.files)  # type: ignore[arg-type]
    rows, lost = {}, []
    print(f"{'task':36}{'offered':>9}{'recall float32':>16}{'int8':>8}{'precision float32':>19}{'int8':>8}")
    for task in args.tasks:
        expected, answered = measure(float32, task, args.scenes), measure(int8, task, args.scenes)
        for kind, score in expected.items():
            name = f"{task}, {kind}" if kind else task
            pair = score.row(), answered[kind].row()
            is_offered = offered(gate["tasks"][task])
            rows[name] = {"offered": is_offered, "float32": pair[0], "int8": pair[1], "gate": gate["tasks"][task]}
            cells = [float(row[key] or 0) for key in ("recall", "precision") for row in pair]
            print(f"{name:36}{'yes' if is_offered else 'no':>9}{cells[0]:16.3f}{cells[1]:8.3f}", end="")
            print(f"{cells[2]:19.3f}{cells[3]:8.3f}", flush=True)
            if is_offered and max(cells[0] - cells[1], cells[2] - cells[3]) > LOSS + 1e-9:
                lost.append(name)
    print(f"offered tasks that lose more than one point: {', '.join(lost) or 'none'}")
    if args.write:
        write("int8", {"scenes": args.scenes, "frames": args.frames, "tasks": rows, "lost": lost})


if __name__ == "__main__":
    main()
