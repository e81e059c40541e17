"""Effect of a lost camera and of a frozen receiver on the video and on inference."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.view.parts import rate_and_gap
from tests.support.agents import Event, RunningAgent, until
from tests.support.clips import write_clip
from tests.support.rtsp import RtspReceiver, RtspServer
from tests.support.viewing import JpegReader, Role, StatusCollector, ffprobe, view_config


def outage(seconds: float) -> dict[str, Any]:
    """An RTSP camera is killed and returns after `seconds`: frames per second before, during and after the outage."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        runtime = Path(folder)
        with RtspServer(write_clip(runtime / "clip.mp4", pictures=100, size=(640, 360))) as server:
            mp4 = {"kind": "mp4", "path": folder, "segment": "1h"}
            made = view_config(mp4, {"kind": "mjpeg"}, source=server.url)
            with (
                StatusCollector(runtime) as statuses,
                Role(runtime, made, "capture"),
                Role(runtime, made, "view") as view,
                JpegReader(runtime) as reader,
            ):
                until(lambda: reader.rate(1) > 23, 60, "it runs")
                before = reader.rate(5)
                server.kill()
                through = reader.rate(seconds)
                server.start()
                started = time.monotonic()
                statuses.wait("stream.up", 2)
                recovered = time.monotonic() - started
                after = reader.rate(5)
                view.end()
        fps, gap = rate_and_gap(runtime, "cam")
    return {
        "outage_s": seconds,
        "mjpeg_fps_before": round(before, 2),
        "mjpeg_fps_through_it": round(through, 2),
        "mjpeg_fps_after": round(after, 2),
        "mp4_fps_over_all": fps,
        "mp4_longest_gap_ms": gap,
        "camera_back_to_picture_s": round(recovered, 2),
    }


def frozen(seconds: float) -> dict[str, Any]:
    """The receiver of an RTSP push is stopped (SIGSTOP): answers per second in `seconds` before and after that."""
    with tempfile.TemporaryDirectory() as folder, RtspReceiver() as receiver:
        path, events = Path(folder), Path(folder) / "events.jsonl"
        config = path / "bench.yaml"
        config.write_text(
            "streams: {gate: {source: synthetic, tasks: [{task: object_detection, every: 250ms}]}}\n"
            f"sinks: [{{kind: jsonl, path: {events}}}]\n"
            f"outputs: [{{kind: rtsp_push, stream: gate, name: push, url: '{receiver.push_url}'}},"
            f" {{kind: mp4, stream: gate, path: {path}, segment: 1h}}]\n"
        )
        with RunningAgent(path / "agent", ["run", str(config)], events) as running:
            until(lambda: running.statuses("output.up"), 180, "the receiver is pushed to")
            running.wait_for_results(8, 180)
            pushers = {running.children()["push:push"], None}
            begun = time.time()
            time.sleep(seconds)
            receiver.freeze()
            stopped = time.time()
            until(lambda: running.children().get("push:push") not in pushers, 60, "a new pusher")
            replaced = time.time() - stopped
            time.sleep(max(0.0, stopped + seconds - time.time()))
            thawed, known = time.time(), len(running.statuses("output.up"))
            receiver.thaw()
            until(lambda: len(running.statuses("output.up")) > known, 60, "it resumes")
            resumed = time.time() - thawed
            probe = ffprobe(receiver.play_url, "-rtsp_transport", "tcp", "-read_intervals", "%+4")
            results = running.results()
            running.stop()
        fps, gap = rate_and_gap(path, "gate")
    return {
        "answers_per_s_before": _rate(results, begun, stopped),
        "answers_per_s_while_frozen": _rate(results, stopped, thawed),
        "pusher_replaced_after_s": round(replaced, 2),
        "resumed_after_thaw_s": round(resumed, 2),
        "pictures_read_after_it_in_4_s": int(probe["nb_read_frames"]),
        "mp4_of_the_same_view_fps": fps,
        "mp4_of_the_same_view_longest_gap_ms": gap,
    }


def _rate(results: list[Event], start: float, end: float) -> float:
    times = sorted(datetime.fromisoformat(one["time"]).timestamp() for one in results)
    within = [time for time in times if start <= time < end]
    return round((len(within) - 1) / (within[-1] - within[0]), 3)
