"""Speed relative to transformers on the processors that people have: `python -m benchmarks.cpu`.

Each instruction set is a process of its own, limited by environment variables. All sides open one checkpoint (the base
architecture with random weights in float16), run greedy search over the same frame and a fixed number of tokens, and
take turns. The baseline is `generate` of transformers with its own processor, in its faster number type.

A second table shows the time from the start of a process to a ready engine, and the peak memory of loading.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# As in the pipeline, before torch is imported: idle OpenMP threads sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from pydantic import ValidationError
from transformers import AutoProcessor, Florence2ForConditionalGeneration
from transformers.utils import logging as hf_logging

from benchmarks.engine import TOKENS, run_ours, run_transformers
from benchmarks.report import merge
from benchmarks.shipped import job
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.pipeline import Florence2Settings, open_engine, pipeline
from pipelines.florence2.speed.random_checkpoint import save_random
from streamer.core.errors import ConfigError
from streamer.toyworld.world import World
from streamer.types import Engine

LIMITS: dict[str, dict[str, str]] = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX2-VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2"},
    "no limit": {},
}
"""Environment variables by instruction set."""
NEEDED = {"AVX2": "avx2", "AVX2-VNNI": "avx_vnni"}
"""Instructions that a limit needs, as torch names them. AVX-512 VNNI does not include AVX2-VNNI: without the
latter oneDNN takes the limit AVX2-VNNI for AVX2, and computes int8 without VNNI."""
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "torch": {"backend": "torch"},
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "openvino": {"backend": "openvino"},
}
"""Keys of `model:` by name. Settings that this installation lacks, or that equal others, are left out."""
INT8 = "int8"
"""Name of the int8 model, which `auto` takes only where it passed a comparison of answers. It is made here without one:
random weights give no answers to compare, and the calibration does not change the speed."""
WORK = {
    "caption": ("caption",),
    "object detection": ("object_detection",),
    "three tasks on one frame": ("caption", "object_detection", "dense_region_caption"),
}
GOALS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("AVX2", "fastest"): {
        "caption": (1.5, 2.0),
        "object detection": (1.3, 1.3),
        "three tasks on one frame": (3.0, 3.0),
    },
    ("AVX2-VNNI", INT8): {
        "caption": (2.5, 3.3),
        "object detection": (2.0, 3.0),
        "three tasks on one frame": (4.5, 6.0),
    },
    ("no limit", "default"): {
        "caption": (1.35, 1.5),
        "object detection": (1.4, 1.6),
        "three tasks on one frame": (2.6, 3.5),
    },
    ("no limit", "fastest"): {
        "caption": (1.5, 2.5),
        "object detection": (1.6, 3.0),
        "three tasks on one frame": (3.5, 6.0),
    },
}
"""Required and desired ratio by limit, settings and work; `fastest` stands for the fastest settings of the work."""
MAX_LOSS = 1.1
"""Largest allowed time of the default relative to the fastest settings."""
TOO_SLOW = 2.0
"""Settings that need this many times the default's time for a caption are not measured further."""

_OPEN = """
import json, re, sys, time
from pathlib import Path
from pipelines.florence2.pipeline import Florence2Settings, pipeline
import torch
def megabytes(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
imports = megabytes("VmRSS")
engine = pipeline.open(Florence2Settings(**json.loads(sys.argv[1])))
print(json.dumps([time.monotonic(), imports, megabytes("VmHWM")]))
"""
"""Program that opens the engine and prints the monotonic second, the MB of memory before, and the peak."""


def make_int8(folder: Path) -> None:
    """Make the int8 models beside the checkpoint, if this installation can."""
    from pipelines.florence2.int8.quantize import REFERENCE, make_models, nncf_package

    try:
        nncf = nncf_package()
    except ConfigError as error:
        print(f"{INT8}: left out, {error}", flush=True)
        return
    engine: Any = open_engine(Florence2Settings.model_validate({"checkpoint": str(folder), **REFERENCE}))
    jobs = [job("caption", "camera", number, World(number).scene(1.0).paint(640, 480)) for number in range(2)]
    int8_folder(folder).mkdir()
    make_models(nncf, engine, open_folder(str(folder)), jobs, int8_folder(folder), lambda line: print(line, flush=True))


def int8_folder(folder: Path) -> Path:
    return folder.with_name("int8")


def open_int8(folder: Path) -> Engine | str:
    """Return the engine with the int8 models, or why there is none."""
    from pipelines.florence2.int8.engine import build_engine
    from pipelines.florence2.int8.quantize import USUAL

    models = {path.stem: path for path in int8_folder(folder).glob("*.xml")}
    if not models:
        return "no int8 models were made"
    engine: Any = open_engine(
        Florence2Settings.model_validate({"checkpoint": str(folder), **USUAL, "backend": "torch", "max_batch": 8})
    )
    try:
        return build_engine(engine, models)
    except ConfigError as error:
        return str(error)


def open_settings(settings: Mapping[str, Any], folder: Path) -> Engine | str:
    """Return the engine, or why this installation has no such settings."""
    try:
        return pipeline.open(Florence2Settings.model_validate({"checkpoint": str(folder), "device": "cpu", **settings}))
    except ValidationError as error:
        return f"this version does not take them: {error.errors()[0]['loc'][0]}"
    except ConfigError as error:
        return str(error)


class Comparison:
    """Transformers and our engines on one checkpoint, under the limits of this process."""

    def __init__(self, folder: Path, rounds: int, tokens: Mapping[str, int]) -> None:
        self.rounds, self.tokens = rounds, tokens
        self.image = World(0).scene(1.0).paint(1920, 1080)
        self.transformers = self._better_transformers(folder)
        self.engines: dict[str, Engine] = {}
        for name in (*SETTINGS, INT8):
            engine = open_int8(folder) if name == INT8 else open_settings(SETTINGS[name], folder)
            if isinstance(engine, str):
                print(f"  {name}: left out, {engine}", flush=True)
            elif how(engine) in map(how, self.engines.values()):
                print(f"  {name}: left out, they equal settings above", flush=True)
            else:
                self.engines[name] = engine
                print(f"  {name}: {engine.description}", flush=True)

    def _better_transformers(self, folder: Path) -> Callable[[str], None]:
        """Return the function that runs a task with transformers, in the number type that is faster for a caption."""
        processor = AutoProcessor.from_pretrained(folder)
        seconds: dict[str, float] = {}
        runs: dict[str, Callable[[str], None]] = {}
        for dtype in ("float32", "bfloat16"):
            model: Any = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
            runs[dtype] = partial(self._run_transformers, model.eval(), processor)
            run = partial(runs[dtype], "caption")
            # The first run compiles kernels; it decides alone where the other type is far ahead.
            seconds[dtype] = timed(run)
            if seconds[dtype] < TOO_SLOW * min(seconds.values()):
                seconds[dtype] = min(timed(run) for _ in range(2))
        better = min(seconds, key=seconds.__getitem__)
        print("  transformers: " + ", ".join(f"{dtype} {took:.2f} s" for dtype, took in seconds.items()), flush=True)
        return runs[better]

    def _run_transformers(self, model: Any, processor: Any, task: str) -> None:
        run_transformers(model, processor, task, self.image, self.tokens[task])

    def times(self, work: str) -> dict[str, list[float]]:
        """Return the seconds of each round by side; all sides take turns."""

        def library() -> None:
            for task in WORK[work]:
                self.transformers(task)

        def ours(engine: Engine) -> None:
            run_ours(engine, WORK[work], self.image, self.tokens)

        sides: dict[str, Callable[[], None]] = {"transformers": library}
        sides |= {name: partial(ours, engine) for name, engine in self.engines.items()}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, action in sides.items():
                times[name].append(timed(action))
                if name in self.engines and times[name][0] > TOO_SLOW * times["default"][0]:
                    del self.engines[name]
            sides = {name: action for name, action in sides.items() if name in self.engines or name == "transformers"}
        return times


def has_instructions(limit: str) -> bool:
    """Return whether this processor has the instructions of a limit; print if not."""
    needed = NEEDED.get(limit)
    if needed is None or torch.cpu.get_capabilities().get(needed):
        return True
    print(f"\n{limit}: left out, this processor has no {needed}", flush=True)
    return False


def how(engine: Engine) -> str:
    """Return the engine's description without reasons."""
    return re.sub(r" \([^)]*\)", "", engine.description)


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare(limit: str, folder: Path, rounds: int, tokens: Mapping[str, int], threads: int) -> dict[str, Any]:
    """Print and return the times of all work, under the limits of this process."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    print(f"\n{limit}", flush=True)
    comparison = Comparison(folder, rounds, tokens)
    settings = {name: engine.description for name, engine in comparison.engines.items()}
    print(f"  {'work':26}{'settings':16}{'library ms':>11}{'ours ms':>9}{'ratio':>9}   required / goal", flush=True)
    rows = {}
    for work in WORK:
        times = comparison.times(work)
        rows[work] = {name: [round(1000 * one, 1) for one in part] for name, part in times.items()}
        print_rows(limit, work, {name: 1000 * statistics.median(part) for name, part in times.items()})
    return {"settings": settings, "all_ms": rows}


def print_rows(limit: str, work: str, medians: dict[str, float]) -> None:
    """Print the row of each setting, and how the default compares with the fastest."""
    library = medians.pop("transformers")
    fastest = min(medians, key=medians.__getitem__)
    for name, took in medians.items():
        names = (name, "fastest") if name == fastest else (name,)
        goals = [GOALS[limit, key][work] for key in names if (limit, key) in GOALS]
        wanted = ", ".join(f"{required:g}x / {goal:g}x" for required, goal in goals)
        print(f"  {work:26}{name:16}{library:11.0f}{took:9.0f}{library / took:8.2f}x   {wanted}", flush=True)
    loss = medians["default"] / min(took for name, took in medians.items() if name != INT8)
    print(f"  {work:26}default takes {loss:.2f} times as long as the fastest (at most {MAX_LOSS:g})", flush=True)


def in_process(environment: Mapping[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `function` in a new process with these environment variables."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def opening(name: str, folder: Path) -> dict[str, float] | None:
    """Print and return time and peak memory of a new process that opens the engine; None if it cannot."""
    started = time.monotonic()
    keys = {"checkpoint": str(folder), "device": "cpu", **SETTINGS[name]}
    command = [sys.executable, "-c", _OPEN, json.dumps(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    ready, imports, peak = json.loads(done.stdout.splitlines()[-1])
    row = {"seconds": ready - started, "imports_mb": imports, "peak_mb": peak}
    weights = ""
    if "dtype" in SETTINGS[name] and "backend" not in SETTINGS[name]:
        size = getattr(torch, SETTINGS[name]["dtype"]).itemsize / 2  # the file holds 2 bytes per weight
        row["peak_per_weights"] = (peak - imports) / ((folder / "model.safetensors").stat().st_size / 1e6 * size)
        weights = f"{row['peak_per_weights']:18.2f}"
    print(f"  {name:16}{row['seconds']:8.1f}{imports:12.0f}{peak:9.0f}{weights}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of short answers, without meaningful numbers")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per row [3]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads [2]")
    parser.add_argument("--limit", choices=LIMITS, action="append", help="only this instruction set; may be repeated")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/cpu.json")
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    tokens = {task: count // 5 for task, count in TOKENS.items()} if args.quick else TOKENS
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "base"
        in_process({}, save_random, "base", checkpoint)
        in_process({}, make_int8, checkpoint)
        limits = {
            limit: in_process(LIMITS[limit], compare, limit, checkpoint, rounds, tokens, args.threads)
            for limit in args.limit or LIMITS
            if has_instructions(limit)
        }
        print(f"\n  {'no limit':16}{'ready s':>8}{'imports MB':>12}{'peak MB':>9}{'loading : weights':>18}", flush=True)
        openings = {name: row for name in SETTINGS if (row := opening(name, checkpoint))}
    if args.write:
        rows = {name: {"threads": args.threads, "rounds": rounds, **result} for name, result in limits.items()}
        merge("cpu", {**rows, "opening": openings})


if __name__ == "__main__":
    main()
