"""What annotated video is worth and costs: `python -m benchmarks.view [--quick] [--only PART] [--write]`.

On an idle machine; about ten minutes for all of it.

- truth: the real program on the toy world at 25 fps, asked once a second. Mean overlap (IoU) of the drawn boxes with
  all objects of every frame, missed ones counting 0: as drawn, by velocity alone, and with the last boxes held; with
  and without `sync`, where the frames that were asked about are also given alone. Then the same with answers that are
  always right.
- cost: processor time of one 1280x720 stream at 25 fps by part, beside the `ffmpeg` tool re-encoding the same pictures.
- delay: from the making of a picture until a viewer has it, by MJPEG, RTSP push (through a relaying server) and HLS.
- outage: a camera that is away for 20 s.
- frozen: an RTSP receiver that stops reading.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.processor import cpu, process_cpu
from benchmarks.report import write
from benchmarks.view.delay import delay
from benchmarks.view.faults import frozen, outage
from benchmarks.view.parts import FPS, SEED, turn_until, worker
from benchmarks.view.truth import truth
from streamer.bus.frame_client import Reply
from streamer.config.model import from_mapping
from streamer.processes.view import View
from streamer.processes.worker import Worker
from streamer.types import Image
from streamer.video.pacing import PacedFrame
from tests.support.viewing import Ears, Role, Truth, ffprobe, view_config


class Timed(View):
    """A view that counts the processor time of its parts; it has this process to itself."""

    def __init__(self, worker: Worker, name: str) -> None:
        super().__init__(worker, name)
        self.spent: dict[str, float] = {"ask": 0.0, "draw": 0.0, "encode and write": 0.0}
        self.pictures = 0
        write_h264 = self.fan_out.write

        def timed_write(image: Image, at: float, rate: float) -> None:
            with self.part("encode and write"):
                write_h264(image, at, rate)

        self.fan_out.write = timed_write  # type: ignore[method-assign]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self.spent[name] += time.process_time() - before

    def take(self, reply: Reply) -> None:
        with self.part("ask"):
            super().on_reply(reply)

    def ask(self) -> None:
        with self.part("ask"):
            super().request_frame()

    def drawn(self, due: PacedFrame, now: float) -> Image:
        self.pictures += 1
        with self.part("draw"):
            return super().drawn(due, now)


def cost(seconds: float) -> dict[str, Any]:
    """Milliseconds of processor time per second of 1280x720 at 25 fps; boxes are the toy world's truth."""
    source = f"synthetic?seed={SEED}&fps={FPS}&size=1280x720"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        runtime = Path(folder)
        made = view_config({"kind": "mp4", "path": folder}, source=source)
        with Ears(runtime) as ears, Role(runtime, made, "capture") as capture:
            ears.wait("stream.up", timeout=60)
            alone = cpu(capture.process.pid, seconds / 2) / (seconds / 2)
            with Truth(runtime), Timed(worker(from_mapping(made), runtime, "cam"), "cam") as view:
                turn_until(view, lambda: bool(view.overlays.note(time.monotonic()) is None and view.pictures > 50), 60)
                view.spent = dict.fromkeys(view.spent, 0.0)
                before, began, view.pictures = process_cpu(capture.process.pid), time.process_time(), 0
                turn_until(view, lambda: False, seconds)
                spent = {name: round(1000 * value / seconds, 1) for name, value in view.spent.items()}
                spent["all of the view's process"] = round(1000 * (time.process_time() - began) / seconds, 1)
                asked = (process_cpu(capture.process.pid) - before) / seconds
        (clip, *_) = sorted(runtime.glob("cam-*.mp4"))
        spent["capture, more than without a view (it paints each picture it gives)"] = round(1000 * (asked - alone), 1)
        spent["ffmpeg decoding and encoding the same"] = ffmpeg_cost(clip)
        return {"fps": round(view.pictures / seconds, 2), "ms per second of video": None, **spent}


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
