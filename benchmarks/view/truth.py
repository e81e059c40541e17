"""Overlap of drawn boxes with the objects of the toy world at 25 fps, with one answer a second."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.view.parts import FPS, SEED, STREAM, config, rate_and_gap, run_until, wait_for, worker
from streamer.cli.demo_score import GOOD_IOU, match
from streamer.config.model import Config
from streamer.events.schema import ResultEvent
from streamer.processes.view import View
from streamer.processes.worker import Worker
from streamer.toyworld.world import World
from streamer.types import Box, FrameId
from streamer.video.box_motion import BoxMotion
from streamer.video.outputs.base import ViewId
from streamer.video.pacing import PacedFrame
from tests.support.viewing import PerfectInference, Role, StatusCollector, view_config


@dataclass
class Drawing:
    frame: FrameId
    pts: float
    drawn: list[Box]
    velocity: list[Box]
    held: list[Box]


@dataclass
class Answers:
    """The same answers, drawn in the two simpler ways: extrapolated by velocity, and held."""

    motion: BoxMotion = field(default_factory=BoxMotion)
    answers: list[tuple[float, list[Box]]] = field(default_factory=list)
    inferred: set[tuple[int, int]] = field(default_factory=set)

    def add(self, event: ResultEvent) -> None:
        data = event.data
        if data.result is None or data.frame.pts is None:
            return
        boxes = [Box(*box.box, box.label, box.score, box.track) for box in data.result.boxes]
        self.motion.add(data.frame.pts, boxes)
        self.answers.append((data.frame.pts, boxes))
        self.inferred.add((data.epoch, data.frame.seq))

    def held(self, pts: float) -> list[Box]:
        return next((boxes for at, boxes in reversed(self.answers) if at <= pts + 1e-6), [])


class RecordingView(View):
    """A view that records what it draws."""

    def __init__(self, worker: Worker, view_id: ViewId) -> None:
        super().__init__(worker, view_id)
        self.drawings: list[Drawing] = []
        self.answers = Answers()

    def on_result(self, event: ResultEvent) -> None:
        super().on_result(event)
        self.answers.add(event)

    def show(self, paced: PacedFrame, now: float) -> None:
        super().show(paced, now)
        frame = paced.frame
        if frame is not None and not paced.is_repeat and frame.pts is not None and self.answers.answers:
            overlay = self.renderer.overlays.at(frame.id, frame.pts, now)
            boxes = [box for layer in overlay.layers for box in layer.boxes]
            velocity, held = self.answers.motion.at(frame.pts), self.answers.held(frame.pts)
            self.drawings.append(Drawing(frame.id, frame.pts, boxes, velocity, held))


def overlap(boxes: list[Box], pts: float) -> list[float]:
    truth = [(thing.kind, thing.box) for thing in World(SEED).scene(pts).objects]
    rows = match([(box.label, (box.x0, box.y0, box.x1, box.y1)) for box in boxes], truth)
    return [row.iou for row in rows if row.truth]


def mean(drawings: list[Drawing], which: Callable[[Drawing], list[Box]], min_overlap: float = 0.0) -> float | None:
    """Return the mean over all objects with at least that overlap."""
    values = [value for one in drawings for value in overlap(which(one), one.pts) if value >= min_overlap]
    return round(statistics.fmean(values), 4) if values else None


@contextlib.contextmanager
def running(config: Config) -> Iterator[Path]:
    """Run the real program and yield its runtime folder."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.environ |= {"XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": folder}
        file = Path(folder) / "bench.json"
        file.write_text(json.dumps(config.raw))  # JSON is YAML
        with subprocess.Popen([sys.executable, "-m", "streamer.cli", "run", str(file)]) as process:
            try:
                yield Path(folder) / "streamer" / "bench"
            finally:
                process.terminate()
                process.wait(20)


@contextlib.contextmanager
def always_right() -> Iterator[Path]:
    """Run a camera and true answers with 0.1 s latency, and yield the runtime folder."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        runtime = Path(folder)
        made = view_config({"kind": "mjpeg"}, source=f"synthetic?seed={SEED}&fps={FPS}")
        with StatusCollector(runtime), Role(runtime, made, "capture"), PerfectInference(runtime):
            yield runtime


def truth(seconds: float) -> dict[str, Any]:
    """Measure. The program runs without views; the views run in this process, which records what they draw."""
    found: dict[str, Any] = {}
    for sync in (False, True):
        with running(config()) as runtime:
            wait_for((runtime / "results.sock").exists, 180)
            found["shipped model, sync" if sync else "shipped model"] = measure(runtime, STREAM, sync, seconds)
        with always_right() as runtime:
            found["perfect answers, sync" if sync else "perfect answers"] = measure(runtime, "cam", sync, seconds)
    return found


def measure(runtime: Path, stream: str, sync: bool, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        agent = config({"kind": "mp4", "path": folder, "sync": sync, "stream": stream, "segment": "1h"}, stream=stream)
        view_id = ViewId(stream, sync)
        with RecordingView(worker(agent, runtime, str(view_id)), view_id) as view:
            run_until(view, lambda: len(view.answers.answers) >= 3, 120)
            view.drawings.clear()
            run_until(view, lambda: False, seconds)
        fps, _ = rate_and_gap(Path(folder), str(view_id))
    own = [one for one in view.drawings if tuple(one.frame) in view.answers.inferred]
    return {
        "frames": len(view.drawings),
        "fps_by_ffprobe": fps,
        "as_drawn": mean(view.drawings, lambda one: one.drawn),
        "velocity_alone": mean(view.drawings, lambda one: one.velocity),
        "hold_last": mean(view.drawings, lambda one: one.held),
        "at_inferred_frames": mean(own, lambda one: one.drawn),
        "of_those_found": mean(own, lambda one: one.drawn, GOOD_IOU),
        "inferred_frames": len(own),
    }
