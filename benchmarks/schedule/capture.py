"""CPU time of capture processes with one request per second, relative to decoding alone.

Five processes read the same RTSP stream at the same time: PyAV that only decodes, PyAV that only reads packets, a
capture without motion gate, a capture with motion gate, and a capture that decodes key frames only. The inference
process is real, its device needs no time. Targets of the three captures, as multiples of decoding alone: 1.15, 1.3 and
0.2.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av

from benchmarks.cpu_time import process_cpu
from benchmarks.schedule.harness import FPS, AgentUnderTest, Device, make_clip
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
    with AgentUnderTest(runtime, streams, Device(0.0, 4)) as agent:
        agent.warm_up(WARM_UP_S)
        processes = {**alone, **{name: role.process.pid for name, role in agent.captures.items()}}
        before = {name: process_cpu(pid) for name, pid in processes.items()}
        agent.results.clear()
        started = time.monotonic()
        agent.run_for(seconds)
        elapsed = time.monotonic() - started
        used = {name: (process_cpu(pid) - before[name]) / elapsed for name, pid in processes.items()}
        answers = Counter(event.data.stream for event in agent.results if event.data.outcome == "empty")
        agent.stop()
    return {
        "seconds": round(elapsed, 1),
        "core_share": {f"{name}_core_share": round(share, 4) for name, share in used.items()},
        "ratio": {f"{name}_ratio": round(used[name] / used[DECODING], 2) for name in (READING, *CASES)},
        "answers": {f"{name}_answers_per_s": round(answers[name] / elapsed, 2) for name in CASES},
    }


def read(url: str, decode: bool) -> None:
    """Read all packets until the process is killed; with `decode`, decode them as capture does."""
    with av.open(url, options={"rtsp_transport": "tcp"}) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        for packet in container.demux(stream):
            if decode:
                packet.decode()
