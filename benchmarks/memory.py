"""Memory and start of an agent: `python -m benchmarks.memory`.

- `loading`: peak memory (RSS) of opening Florence-2 base, relative to its weights in the number type that it runs in.
  Memory of the imported libraries does not count. `built`: weights read, caches of one or eight answers at a time
  allocated; `answered`: also the first answer.
- `cameras`: proportional set size (PSS) of each process of an agent with 16 streams. A page that several processes
  share counts once in all. The cost of a camera is the PSS of all capture processes, and of the process that forks
  them, by the number of cameras.
- `start`: seconds from the command `streamer watch synthetic` to its first result with the shipped model, CPU seconds
  of all its processes until then, and seconds from `kill -9` of inference to the next result.

`--checkout` measures the agent of another checkout; this program uses only its commands and `/proc`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.cpu import in_process
from benchmarks.cpu_time import process_cpu
from benchmarks.report import merge
from pipelines.florence2.speed.random_checkpoint import save_random
from tests.support.rtsp import RtspServer

ROOT = Path(__file__).parent.parent
CAMERAS = 16
SETTLE_S = 10.0
"""Seconds from the first frame of the last camera to the measurement."""
TIMEOUT_S = 120.0
TASK = {"task": "caption", "every": "600s"}


@contextmanager
def running(arguments: list[str], checkout: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `streamer` of a checkout with its state and standard output in `folder`."""
    environment = {
        **os.environ, "PYTHONPATH": str(checkout), "STATE_DIRECTORY": str(folder), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with (folder / "events").open("wb") as events, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "streamer.cli", *arguments]
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=events, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def children(pid: int) -> dict[int, str]:
    """Return process ids and names (`capture cam1`) of all processes below one."""
    parents, found = {}, {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    for child in sorted(parents):
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and child != pid:
            with suppress(OSError):
                module, *words = (folder_of(child) / "cmdline").read_bytes().decode().split("\0")[2:]
                name = module.rpartition(".")[2]
                found[child] = " ".join(filter(None, words)) if name == "worker" else name
    return found


def folder_of(pid: int) -> Path:
    return Path("/proc") / str(pid)


def memory(pid: int) -> dict[str, float]:
    """Return PSS, shared and private memory of a process in MB, and the private part by kind of mapping."""
    totals: dict[str, float] = defaultdict(float)
    kind = ""
    for line in (folder_of(pid) / "smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split()[0]:
            name = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else "anonymous"
            kind = name.strip("[]") if name.startswith("[") else "file" if name.startswith("/") else "anonymous"
        elif key == "Pss":
            totals["pss"] += int(value.split()[0]) / 1000
        elif key.startswith("Shared_"):
            totals["shared"] += int(value.split()[0]) / 1000
        elif key in ("Private_Clean", "Private_Dirty"):
            totals["private"] += int(value.split()[0]) / 1000
            totals[f"private {kind}"] += int(value.split()[0]) / 1000
    return {name: round(total, 1) for name, total in totals.items() if total >= 0.05}


def answered(folder: Path) -> set[str]:
    """Return the streams that have a result on standard output."""
    events = map(json.loads, (folder / "events").read_bytes().split(b"\n")[:-1])
    return {event["data"]["stream"] for event in events if event["type"] == "streamer.result.v1"}


def until(condition: Any, folder: Path) -> Any:
    """Wait for a true value of `condition` and return it. Raises TimeoutError with the end of the log."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError((folder / "log").read_text()[-2000:])
        time.sleep(0.02)
    return value


def write_clip(path: Path) -> None:
    """Write a clip of 1280x720 pixels in H.264 with noise, of 20 s."""
    noise = np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 1280, 720, "yuv420p"
        for number in range(500):
            frame = av.VideoFrame.from_ndarray(np.roll(noise // 4, number, axis=1), format="bgr24")
            container.mux(video.encode(frame))
        container.mux(video.encode())


def cameras(checkout: Path, source: str) -> dict[str, Any]:
    """Measure an agent whose cameras are all of one kind: `synthetic`, or `rtsp`, H.264 of 1280x720 pixels."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        url = "synthetic"
        if source == "rtsp":
            write_clip(folder / "clip.mp4")
            url = stack.enter_context(RtspServer(folder / "clip.mp4")).url
        config = {
            "agent": "memory",
            "sinks": [{"kind": "stdout"}],
            "streams": {f"cam{number}": {"source": url, "tasks": [TASK]} for number in range(CAMERAS)},
        }
        (folder / "agent.yaml").write_text(json.dumps(config))
        with running(["run", str(folder / "agent.yaml")], checkout, folder) as agent:
            until(lambda: len(answered(folder)) == CAMERAS, folder)
            time.sleep(SETTLE_S)
            rows = {name: memory(pid) for pid, name in children(agent.pid).items()}
    captures = [row for name, row in rows.items() if name.startswith("capture")]
    servers = [row for name, row in rows.items() if name.startswith("fork_server")]
    kinds = sorted({kind for row in captures for kind in row})
    return {
        "MB per camera": round(sum(row["pss"] for row in captures + servers) / CAMERAS, 1),
        "one camera, median": {kind: statistics.median(row.get(kind, 0.0) for row in captures) for kind in kinds},
        "others": {name.split()[0]: row["pss"] for name, row in rows.items() if not name.startswith("capture")},
    }


def start(checkout: Path) -> dict[str, float]:
    """Measure one start of `streamer watch`, and one recovery of inference."""
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()

        def results() -> int:
            return (folder / "events").read_bytes().count(b'"streamer.result.v1"')

        with running(["watch", "synthetic", "--task", "caption", "--every", "100ms"], checkout, folder) as agent:
            until(results, folder)
            first_s = time.monotonic() - began
            cpu_s = sum(process_cpu(pid) for pid in (agent.pid, *children(agent.pid)))
            until(lambda: results() > 20, folder)
            (infer,) = (pid for pid, child in children(agent.pid).items() if child == "infer")
            os.kill(infer, signal.SIGKILL)
            killed = time.monotonic()
            time.sleep(0.2)  # results that are under way
            known = results()
            until(lambda: results() > known, folder)
            return {"first result s": first_s, "CPU s": cpu_s, "result after kill -9 s": time.monotonic() - killed}


def loading(folder: Path) -> dict[str, Any]:
    """Measure the peak of opening the checkpoint in `folder`, each number type and batch in a process of its own."""
    rows = {}
    for dtype in ("float32", "bfloat16"):
        for max_batch in (1, 8):
            rows[f"{dtype}, {max_batch} at a time"] = in_process({}, peak_memory, folder, dtype, max_batch)
    return rows


def peak_memory(folder: Path, dtype: str, max_batch: int) -> dict[str, float]:
    """Open a checkpoint with torch in this process; return memory relative to its weights in the given number type."""
    from pipelines.florence2.checkpoint_files import open_folder
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.pipeline import Florence2Settings, open_engine
    from pipelines.florence2.weights import find_weights

    settings = {"device": "cpu", "engine": "fast", "int8": "off", "backend": "torch"}
    open_engine(Florence2Settings.model_validate(settings))  # loads the libraries, with the small model
    (Path("/proc/self") / "clear_refs").write_text("5")  # the peak starts again at the present size
    before, built = status("VmRSS"), 0
    warm_up = FastEngine.warm_up

    def noted(engine: FastEngine) -> None:
        nonlocal built
        built = status("VmHWM")
        warm_up(engine)

    FastEngine.warm_up = noted  # type: ignore[method-assign, assignment]
    more = {"checkpoint": str(folder), "dtype": dtype, "max_batch": max_batch}
    engine = open_engine(Florence2Settings.model_validate(settings | more))
    stored = find_weights(folder.name, open_folder(str(folder)).weights)
    weights = sum(math.prod(weight.shape) for weight in stored.values()) * {"float32": 4, "bfloat16": 2}[dtype]
    assert engine.free() == max_batch
    peaks = {"built": built, "answered": status("VmHWM"), "afterwards": status("VmRSS")}
    return {name: round((value - before) / weights, 2) for name, value in peaks.items()}


def status(key: str) -> int:
    """Return a size of this process from `/proc/self/status`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and start of an agent.")
    parser.add_argument("--only", choices=("loading", "cameras", "start"))
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="folder of the agent whose cameras or start are measured"
    )
    parser.add_argument("--times", type=int, default=5, help="starts that are measured")
    parser.add_argument("--write", action="store_true", help="store the results in results/memory.json")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    if options.only in (None, "loading"):
        with tempfile.TemporaryDirectory() as name:
            in_process({}, save_random, "base", Path(name))
            results["loading"] = loading(Path(name))
    if options.only in (None, "cameras"):
        results["cameras"] = {source: cameras(options.checkout, source) for source in ("synthetic", "rtsp")}
    if options.only in (None, "start"):
        rows = [start(options.checkout) for _ in range(options.times)]
        results["start"] = {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
    print(json.dumps(results, indent=2))
    if options.write:
        merge("memory", results)


if __name__ == "__main__":
    main()
