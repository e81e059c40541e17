"""Processor time of capture processes that are asked once a second, beside decoding alone.

All at the same time, on the same pictures of one RTSP server: PyAV that decodes and does nothing else, and PyAV that
only reads the packets; a capture whose task is always asked; one whose task waits for movement, with the gate that this
takes; and one that may leave out all but the key frames. The inference is a real one with a device that needs no time.
Targets, of decoding alone: 1.15, 1.3 and 0.2 times.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av

from benchmarks.processor import process_cpu
from benchmarks.schedule.parts import FPS, Device, Measured, make_clip
from tests.support.rtsp import RtspServer

WARM_UP_S = 5.0
CASES: dict[str, dict[str, str]] = {
    "gates_off": {"decode": "all", "when": "always"},
    "gates_on": {"decode": "all", "when": "motion"},
    "key_frames": {"decode": "auto", "when": "always"},
}
DECODING, READING = "decoding_alone", "reading_alone"


def capture(seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        clip = make_clip(Path(folder) / "clip.mp4")
        with RtspServer(clip, FPS) as server:
            alone = {
                name: context.Process(target=read, args=(server.url, name == DECODING), daemon=True)
                for name in (DECODING, READING)
            }
            for process in alone.values():
                process.start()
            try:
                pids = {name: process.pid for name, process in alone.items() if process.pid is not None}
                return measure(Path(folder), server.url, pids, seconds)
            finally:
                for process in alone.values():
                    process.kill()
                    process.join()


def measure(runtime: Path, url: str, alone: dict[str, int], seconds: float) -> dict[str, Any]:
    streams = {
        name: {
            "source": {"kind": "rtsp", "url": url, "decode": case["decode"]},
            "tasks": [{"task": "object_detection", "every": "1s", "when": case["when"]}],
        }
        for name, case in CASES.items()
    }
    with Measured(runtime, streams, Device(0.0, 4)) as agent:
        agent.warm_up(WARM_UP_S)
        processes = {**alone, **{name: role.process.pid for name, role in agent.captures.items()}}
        before = {name: process_cpu(pid) for name, pid in processes.items()}
        agent.results.clear()
        began = time.monotonic()
        agent.turn_for(seconds)
        took = time.monotonic() - began
        used = {name: (process_cpu(pid) - before[name]) / took for name, pid in processes.items()}
        asked = Counter(event.data.stream for event in agent.results if event.data.outcome == "empty")
        agent.stop()
    return {
        "seconds": round(took, 1),
        "core_share": {f"{name}_core_share": round(share, 4) for name, share in used.items()},
        "ratio": {f"{name}_ratio": round(used[name] / used[DECODING], 2) for name in (READING, *CASES)},
        "asked": {f"{name}_answers_per_s": round(asked[name] / took, 2) for name in CASES},
    }


def read(url: str, decode: bool) -> None:
    """Every packet, until it is ended; `decode`: and its picture, as a capture decodes it."""
    with av.open(url, options={"rtsp_transport": "tcp"}) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        for packet in container.demux(stream):
            if decode:
                packet.decode()
