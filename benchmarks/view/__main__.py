"""Measures annotated video: `python -m benchmarks.view [--quick] [--only PART] [--write]`.

Needs an idle machine; all parts take about ten minutes.

- truth: the real program on the toy world at 25 fps, one answer a second. Mean overlap (IoU) of the drawn boxes with
  all objects of every frame, missed ones counting 0: as drawn, by velocity alone, and with the last boxes held; with
  and without `sync`, and for the frames of the answers alone. Then the same with answers that are always right.
- cost: processor time of one 1280x720 stream at 25 fps by part, and of the `ffmpeg` tool re-encoding the same video.
- delay: from a frame's creation to the viewer, by MJPEG, RTSP push (through a relaying server) and HLS.
- outage: a camera that is unreachable for 20 s.
- frozen: an RTSP receiver that stops reading.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.cpu_time import cpu, process_cpu
from benchmarks.report import write
from benchmarks.view.delay import delay
from benchmarks.view.faults import frozen, outage
from benchmarks.view.parts import FPS, SEED, run_until, worker
from benchmarks.view.truth import truth
from streamer.config.model import from_mapping
from streamer.processes.view import View
from streamer.processes.worker import Worker
from streamer.video.outputs.base import ViewId
from streamer.video.pacing import PacedFrame
from tests.support.viewing import PerfectInference, Role, StatusCollector, ffprobe, view_config

P = ParamSpec("P")
T = TypeVar("T")


class Timed(View):
    """A view that measures the processor time of its parts; nothing else runs in this process."""

    def __init__(self, worker: Worker, view_id: ViewId) -> None:
        super().__init__(worker, view_id)
        self.spent: dict[str, float] = {}
        self.frames = 0
        self.intake.request = self.timed("fetch", self.intake.request)  # type: ignore[method-assign]
        self.intake.receive = self.timed("fetch", self.intake.receive)  # type: ignore[method-assign]
        self.renderer.render = self.timed("draw", self.renderer.render)  # type: ignore[method-assign]
        self.fan_out.write = self.timed("encode and write", self.fan_out.write)  # type: ignore[method-assign]

    def timed(self, part: str, function: Callable[P, T]) -> Callable[P, T]:
        self.spent[part] = 0.0

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            before = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[part] += time.process_time() - before

        return run

    def show(self, paced: PacedFrame, now: float) -> None:
        self.frames += 1
        super().show(paced, now)


def cost(seconds: float) -> dict[str, Any]:
    """Return milliseconds of processor time per second of 1280x720 video at 25 fps, with the toy world's true boxes."""
    source = f"synthetic?seed={SEED}&fps={FPS}&size=1280x720"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        runtime = Path(folder)
        made = view_config({"kind": "mp4", "path": folder}, source=source)
        with StatusCollector(runtime) as statuses, Role(runtime, made, "capture") as capture:
            statuses.wait("stream.up", timeout=60)
            alone = cpu(capture.process.pid, seconds / 2) / (seconds / 2)
            with PerfectInference(runtime), Timed(worker(from_mapping(made), runtime, "cam"), ViewId("cam")) as view:
                run_until(view, lambda: view.renderer.overlays.note(time.monotonic()) is None and view.frames > 50, 60)
                view.spent = dict.fromkeys(view.spent, 0.0)
                before, began, view.frames = process_cpu(capture.process.pid), time.process_time(), 0
                run_until(view, lambda: False, seconds)
                spent = {name: round(1000 * value / seconds, 1) for name, value in view.spent.items()}
                spent["all of the view's process"] = round(1000 * (time.process_time() - began) / seconds, 1)
                asked = (process_cpu(capture.process.pid) - before) / seconds
        (clip, *_) = sorted(runtime.glob("cam-*.mp4"))
        spent["capture, more than without a view (it paints each picture it gives)"] = round(1000 * (asked - alone), 1)
        spent["ffmpeg decoding and encoding the same"] = ffmpeg_cost(clip)
        return {"fps": round(view.frames / seconds, 2), "ms per second of video": None, **spent}


def ffmpeg_cost(clip: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(clip),
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-tune",
        "zerolatency",
    ]
    subprocess.run([*command, "-crf", "23", "-f", "null", "-"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(1000 * used / float(ffprobe(clip)["duration"]), 1)


def show(part: str, result: dict[str, Any]) -> None:
    """Print one part: a row for each case, or for each figure."""
    nested = all(isinstance(value, dict) for value in result.values())
    columns = list(next(iter(result.values()))) if nested else ["value"]
    table = Table(part, *columns, title_justify="left")
    for name, value in result.items():
        cells = [value.get(column) for column in columns] if nested else [value]
        table.add_row(name, *("-" if cell is None else str(cell) for cell in cells))
    Console(width=140).print(table)


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "truth": lambda quick: truth(12 if quick else 60),
    "cost": lambda quick: cost(5 if quick else 30),
    "delay": lambda quick: delay(50 if quick else 400),
    "outage": lambda quick: outage(5 if quick else 20),
    "frozen": lambda quick: frozen(12 if quick else 20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--write", action="store_true", help="keep the result in results/view.json")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    for name, part in PARTS.items():
        if options.only in (None, name):
            result[name] = part(options.quick)
            show(name, result[name])
    if options.write:
        write("view", result)


if __name__ == "__main__":
    main()
