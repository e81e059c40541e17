"""Accuracy of the shipped model in int8 beside float32, by task: `python -m benchmarks.int8`.

The int8 model is calibrated on toy worlds, and the gate judges it on others, as `streamer model quantize` does. Then
both models are measured on the worlds of `benchmarks.accuracy`. A task that the gate offers in int8 must lose at most
one point of recall and of precision. The decoder's weights are int8 too, as in a large model on a CPU without bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import chain, zip_longest
from pathlib import Path

from benchmarks.accuracy import JUDGES, jobs, measure
from benchmarks.report import write
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8 import weights
from pipelines.florence2.int8.answers import answers
from pipelines.florence2.int8.engine import build_engine
from pipelines.florence2.int8.gate import FLOOR
from pipelines.florence2.int8.quantize import compare, make_models, nncf_package
from pipelines.florence2.pipeline import Florence2Settings, open_engine
from streamer.cli.model import HELD_OUT
from streamer.types import Job

CALIBRATION_SEED, GATE_SEED = 810_000, 820_000
"""Numbers of the first worlds for calibration and for the gate; `benchmarks.accuracy` begins at 500,000."""
LOSS = 0.01
"""Recall and precision that an offered task may lose."""
SETTINGS = Florence2Settings(device="cpu", dtype="float32", engine="fast", backend="torch")


def examples(tasks: list[str], scenes: int, first_seed: int) -> list[Job]:
    """Return jobs of all tasks, the tasks in turn."""
    by_task = [[job for job, _, _ in jobs(task, scenes, first_seed=first_seed)] for task in tasks]
    return [job for job in chain.from_iterable(zip_longest(*by_task)) if job is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400, help="scenes per task [400]")
    parser.add_argument(
        "--frames", type=int, default=64, help="frames per task that calibrate; the gate gets twice [64]"
    )
    parser.add_argument("--tasks", nargs="*", default=list(JUDGES), choices=list(JUDGES), help="tasks to run [all]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/int8.json")
    args = parser.parse_args()
    weights.MIN_NUMBERS = 0  # the small model's decoder would stay in float32
    calibration = examples(args.tasks, args.frames, CALIBRATION_SEED)
    judged = examples(args.tasks, HELD_OUT * args.frames, GATE_SEED)
    float32 = open_engine(SETTINGS)
    assert isinstance(float32, FastEngine)
    with tempfile.TemporaryDirectory() as folder:
        int8 = build_engine(
            float32, make_models(nncf_package(), float32, open_folder(None), calibration, Path(folder), print)
        )
    expected, answered = answers(float32, judged, "float32", print), answers(int8, judged, "int8", print)
    gate = {task: agreement.row(FLOOR) for task, agreement in compare(judged, expected, answered).items()}
    rows, lost = {}, []
    print(f"{'task':36}{'items':>7}{'offered':>9}{'recall float32':>16}{'int8':>8}{'precision float32':>19}{'int8':>8}")
    for task in args.tasks:
        scores = measure(float32, task, args.scenes), measure(int8, task, args.scenes)
        for kind in scores[0]:
            name = f"{task}, {kind}" if kind else task
            pair = [score[kind].row() for score in scores]
            is_offered = bool(gate[task]["passed"])
            rows[name] = {"offered": is_offered, "float32": pair[0], "int8": pair[1], "gate": gate[task]}
            cells = [float(row[key] or 0) for key in ("recall", "precision") for row in pair]
            print(f"{name:36}{pair[0]['expected']:7}{'yes' if is_offered else 'no':>9}", end="")
            print(f"{cells[0]:16.3f}{cells[1]:8.3f}", end="")
            print(f"{cells[2]:19.3f}{cells[3]:8.3f}", flush=True)
            if is_offered and max(cells[0] - cells[1], cells[2] - cells[3]) > LOSS + 1e-9:
                lost.append(name)
    print(f"offered tasks that lose more than one point: {', '.join(lost) or 'none'}")
    if args.write:
        write("int8", {"scenes": args.scenes, "frames": args.frames, "tasks": rows, "lost": lost})


if __name__ == "__main__":
    main()
