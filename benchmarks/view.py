"""What annotated video is worth and costs: `python benchmarks/view.py [--quick] [--write]`, on an idle machine.

- truth: the real program on the toy world at 25 fps, asked once a second. Mean overlap (IoU) of the drawn boxes with
  all objects of every frame, missed ones counting 0: as drawn, by velocity alone, and with the last boxes held; with
  and without `sync`, where the frames that were asked about are also given alone.
- cost: processor time of one 1280x720 stream at 25 fps by part, beside the `ffmpeg` tool re-encoding the same pictures.
- delay: from a picture's capture until it is in the hands of a viewer, for MJPEG, RTSP push (through a relaying server)
  and HLS. The capture time is written into the picture as a row of black and white cells.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from report import write

from streamer.bus.frames import Reply
from streamer.capture import Capture
from streamer.config import Agent, from_mapping
from streamer.demo import match
from streamer.events import ResultEvent
from streamer.line import Due
from streamer.motion import Motion
from streamer.outputs import SYNC
from streamer.settings import Settings
from streamer.toyworld import World
from streamer.types import Box, FrameId, Image, Pace, Source
from streamer.view import View
from streamer.worker import Worker
from tests.rtsp import RtspReceiver
from tests.viewing import Ears, JpegReader, Role, Truth, ffprobe, view_config

SEED, FPS, STREAM, TASK = 1, 25, "toyworld", "objects"


def config(*outputs: dict[str, Any], stream: str = STREAM) -> Agent:
    task = {"task": "object_detection", "name": TASK, "every": "1s"}
    return from_mapping(
        {
            "agent": "bench",
            "streams": {stream: {"source": f"synthetic?seed={SEED}&fps={FPS}", "tasks": [task]}},
            "sinks": [{"kind": "zmq"}],
            "outputs": list(outputs),
        }
    )


# Truth


@dataclass
class Drawing:
    frame: FrameId
    pts: float
    drawn: list[Box]
    velocity: list[Box]
    held: list[Box]


@dataclass
class Answers:
    """The same answers, shown in the two simpler ways."""

    motion: Motion = field(default_factory=Motion)
    answers: list[tuple[float, list[Box]]] = field(default_factory=list)
    asked: set[tuple[int, int]] = field(default_factory=set)

    def add(self, event: ResultEvent) -> None:
        data = event.data
        if data.result is None or data.frame.pts is None:
            return
        boxes = [Box(*box.box, box.label, box.score, box.track) for box in data.result.boxes]
        self.motion.add(data.frame.pts, boxes)
        self.answers.append((data.frame.pts, boxes))
        self.asked.add((data.epoch, data.frame.seq))

    def held(self, pts: float) -> list[Box]:
        return next((boxes for at, boxes in reversed(self.answers) if at <= pts + 1e-6), [])


class Watched(View):
    """A view that keeps what it draws."""

    def __init__(self, worker: Worker, name: str) -> None:
        super().__init__(worker, name)
        self.drawings: list[Drawing] = []
        self.answers = Answers()

    def hear(self, event: ResultEvent) -> None:
        super().hear(event)
        self.answers.add(event)

    def drawn(self, due: Due, now: float) -> Image:
        image = super().drawn(due, now)
        shown = due.shown
        if shown is not None and not due.again and shown.pts is not None and self.answers.answers:
            overlay = self.overlays.at(shown.id, shown.pts, now)
            boxes = [box for layer in overlay.layers for box in layer.boxes]
            velocity, held = self.answers.motion.at(shown.pts), self.answers.held(shown.pts)
            self.drawings.append(Drawing(shown.id, shown.pts, boxes, velocity, held))
        return image


def overlap(boxes: list[Box], pts: float) -> list[float]:
    truth = [(thing.kind, thing.box) for thing in World(SEED).scene(pts).objects]
    rows = match([(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in boxes], truth)
    return [row.iou for row in rows if row.truth]


def mean(drawings: list[Drawing], which: Callable[[Drawing], list[Box]]) -> float:
    return round(statistics.fmean(value for one in drawings for value in overlap(which(one), one.pts)), 4)


@contextlib.contextmanager
def running(agent: Agent) -> Iterator[Path]:
    """The real program, its runtime folder."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.environ |= {"XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": folder}
        file = Path(folder) / "bench.json"
        file.write_text(json.dumps(agent.raw))  # JSON is YAML
        with subprocess.Popen([sys.executable, "-m", "streamer", "run", str(file)]) as process:
            try:
                yield Path(folder) / "streamer" / "bench"
            finally:
                process.terminate()
                process.wait(20)


@contextlib.contextmanager
def always_right() -> Iterator[Path]:
    """A camera, and in inference's place the truth, 0.1 s late: what the view alone makes of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        runtime = Path(folder)
        made = view_config({"kind": "mjpeg"}, source=f"synthetic?seed={SEED}&fps={FPS}")
        with Ears(runtime), Role(runtime, made, "capture"), Truth(runtime):
            yield runtime


def truth(seconds: float) -> dict[str, Any]:
    """The program runs without views; they run here, in their own code, so that what they draw is known exactly."""
    found: dict[str, Any] = {}
    for sync in (False, True):
        with running(config()) as runtime:
            wait_for((runtime / "results.sock").exists, 180)
            found["model, sync" if sync else "model"] = watch(runtime, STREAM, sync, seconds)
        with always_right() as runtime:
            found["perfect answers, sync" if sync else "perfect answers"] = watch(runtime, "cam", sync, seconds)
    return found


def watch(runtime: Path, stream: str, sync: bool, seconds: float) -> dict[str, Any]:
    agent = config({"kind": "mp4", "path": str(runtime), "sync": sync, "stream": stream}, stream=stream)
    name = stream + SYNC if sync else stream
    with Watched(worker(agent, runtime, name), name) as view:
        turn_until(view, lambda: len(view.answers.answers) >= 3, 120)
        view.drawings.clear()
        turn_until(view, lambda: False, seconds)
    own = [one for one in view.drawings if tuple(one.frame) in view.answers.asked]
    return {
        "frames": len(view.drawings),
        "fps": round(len(view.drawings) / seconds, 2),
        "as_drawn": mean(view.drawings, lambda one: one.drawn),
        "velocity_alone": mean(view.drawings, lambda one: one.velocity),
        "hold_last": mean(view.drawings, lambda one: one.held),
        "at_inferred_frames": mean(own, lambda one: one.drawn) if own else None,
        "inferred_frames": len(own),
    }


# Cost


class Timed(View):
    """A view that counts the processor time of its parts; it has this process to itself."""

    def __init__(self, worker: Worker, name: str) -> None:
        super().__init__(worker, name)
        self.spent: dict[str, float] = {"ask": 0.0, "draw": 0.0, "encode and write": 0.0}
        self.pictures = 0
        write_h264 = self.branches.write

        def timed_write(image: Image, at: float, rate: float) -> None:
            with self.part("encode and write"):
                write_h264(image, at, rate)

        self.branches.write = timed_write  # type: ignore[method-assign]

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self.spent[name] += time.process_time() - before

    def take(self, reply: Reply) -> None:
        with self.part("ask"):
            super().take(reply)

    def ask(self) -> None:
        with self.part("ask"):
            super().ask()

    def drawn(self, due: Due, now: float) -> Image:
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
        (clip, *_) = sorted(runtime.glob("*.mp4"))
        spent["capture, more than without a view (it paints each picture it gives)"] = round(1000 * (asked - alone), 1)
        spent["ffmpeg decoding and encoding the same"] = ffmpeg_cost(clip)
        return {"ms_per_second": spent, "fps": round(view.pictures / seconds, 2)}


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


def process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu(pid: int, seconds: float) -> float:
    before = process_cpu(pid)
    time.sleep(seconds)
    return process_cpu(pid) - before


# Delay


CELL, BITS = 20, 32


class Clock(Settings):
    """A camera that shows what the monotonic clock said, in milliseconds, when each picture was made."""

    pace: Pace = "live"

    def open(self, read_limit: float = 15.0) -> Source:
        return _ClockCamera()


class _ClockCamera:
    def __iter__(self) -> Iterator[_ClockPicture]:
        started, number = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, started + number / FPS - time.monotonic()))
            yield _ClockPicture(number / FPS)
            number += 1

    def close(self) -> None:
        """Nothing is held open."""


class _ClockPicture:
    width, height = 640, 480

    def __init__(self, pts: float | None) -> None:
        self.pts = pts
        self._shown = int(time.monotonic() * 1000) % (1 << BITS)

    def write_bgr(self, out: Image) -> None:
        out[:] = 90
        for bit in range(BITS):
            out[200 : 200 + CELL, bit * CELL : (bit + 1) * CELL] = 235 if self._shown >> bit & 1 else 20


def delay_of(image: Image) -> float:
    """Seconds since the picture was made."""
    cells = (image[200 + CELL // 2, bit * CELL + CELL // 2].mean() > 128 for bit in range(BITS))
    shown = sum(1 << bit for bit, white in enumerate(cells) if white)
    return (int(time.monotonic() * 1000) % (1 << BITS) - shown) / 1000


def delay(pictures: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, RtspReceiver() as receiver:
        runtime = Path(folder)
        push = {"kind": "rtsp_push", "url": receiver.push_url, "name": "push"}
        made = view_config({"kind": "mjpeg"}, {"kind": "hls"}, push)
        agent = from_mapping(made)
        clock: Any = Clock()
        agent = replace(agent, streams={"cam": replace(agent.streams["cam"], source=clock)})
        camera = worker(agent, runtime, "cam")
        with (
            Ears(runtime) as ears,
            Capture(camera) as capture,
            Role(runtime, made, "view"),
            Role(runtime, made, "push", "push"),
            JpegReader(runtime) as reader,
        ):
            serving = threading.Thread(target=capture.serve, daemon=True)
            serving.start()
            reader.next(60)
            found = {"mjpeg": [delay_of(_jpeg(reader.next())) for _ in range(pictures)]}
            ears.wait("output.up")
            tcp = {"rtsp_transport": "tcp", "fflags": "nobuffer", "probesize": "32"}
            found["rtsp_push"] = _delays(receiver.play_url, tcp, pictures)
            index = runtime / "hls" / "cam" / "index.m3u8"
            wait_for(lambda: index.exists() and index.read_text().count("#EXTINF") >= 4, 60)
            found["hls"] = _delays(str(index), {"allowed_extensions": "ALL", "extension_picky": "0"}, pictures)
            camera.stop()
            serving.join(10)
    return {name: summary(delays) for name, delays in found.items()}


def _jpeg(data: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _delays(url: str, options: dict[str, str], pictures: int) -> list[float]:
    """Of a reader that shows each picture when its time has come; HLS is read a segment at a time."""
    found: list[float] = []
    with av.open(url, options=options, timeout=20) as container:
        begin: tuple[float, float] | None = None
        for frame in container.decode(video=0):
            at = frame.time or 0.0
            begin = begin or (time.monotonic(), at)
            time.sleep(max(0.0, begin[0] + at - begin[1] - time.monotonic()))
            found.append(delay_of(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)))
            if len(found) >= pictures:
                break
    return found


def summary(delays: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(1000 * statistics.median(delays), 1),
        "p95_ms": round(1000 * float(np.percentile(delays, 95)), 1),
    }


# Running it


def worker(agent: Agent, runtime: Path, name: str) -> Worker:
    return Worker(agent, runtime, runtime, name, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise TimeoutError("it did not happen")
        time.sleep(0.05)


def turn_until(view: View, what: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        view.turn()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each")
    parser.add_argument("--only", choices=("truth", "cost", "delay"))
    parser.add_argument("--write", action="store_true", help="keep the result in results/view.json")
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "truth": lambda: truth(24 if options.quick else 120),
        "cost": lambda: cost(5 if options.quick else 30),
        "delay": lambda: delay(50 if options.quick else 500),
    }
    result: dict[str, Any] = {}
    for name, part in parts.items():
        if options.only in (None, name):
            result[name] = part()
            print(json.dumps({name: result[name]}, indent=2), flush=True)
    if options.write:
        write("view", result)


if __name__ == "__main__":
    main()
