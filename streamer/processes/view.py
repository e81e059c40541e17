"""The view process: draws one stream's answers on its frames at camera rate and sends them to all outputs.

Capture and inference never wait for it. Each frame is drawn once and encoded once. While no frame arrives, the last
one is repeated, so that the outputs' clock continues whatever happens to the camera or the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from streamer.bus.event_channel import EventClient
from streamer.bus.result_feed import ResultSubscriber, TaskList
from streamer.config.changes import with_tasks
from streamer.config.task import DEFAULT_EVERY_S, ScheduledTask
from streamer.core.closing import Closing
from streamer.events.schema import ResultEvent
from streamer.inference.triggers import UNCHANGED_S
from streamer.processes.assignment import ReportKind
from streamer.processes.worker import Worker
from streamer.video.fan_out import FanOut
from streamer.video.frame_intake import FrameIntake
from streamer.video.outputs.base import ViewId, outputs_by_view
from streamer.video.pacing import SYNC_START_S, FramePacer, PacedFrame
from streamer.video.renderer import Renderer

TICK_S = 0.25
"""Longest sleep. Unacknowledged events are sent again at this interval."""


def run(worker: Worker) -> None:
    """Serve one view until its stream has ended or a stop was requested."""
    assert worker.target is not None
    with View(worker, ViewId.parse(worker.target)) as view:
        worker.report(ReportKind.READY)
        while not worker.stopping and not view.finished:
            view.poll_once()


class View(Closing):
    """One view; a context manager."""

    def __init__(self, worker: Worker, view_id: ViewId) -> None:
        self.worker, self.id = worker, view_id
        self.started = now = time.monotonic()
        self.intake = FrameIntake(worker.runtime, view_id.stream)
        self.results = ResultSubscriber(worker.runtime, view_id.stream, worker.assignment.inference)
        self.tasks: list[dict[str, Any]] = worker.config.raw["streams"][view_id.stream]["tasks"]
        self.pacer = FramePacer(now, SYNC_START_S if view_id.sync else 0.0)
        self.renderer = Renderer(now, worker.config.streams[view_id.stream].lines)
        self.set_tasks(worker.config.streams[view_id.stream].active, now)
        self.events = EventClient(worker.runtime, f"view-{view_id}")
        outputs = outputs_by_view(worker.config.outputs)[view_id]
        self.fan_out = FanOut(worker.config.name, outputs, worker.runtime, self.events)
        self.has_viewers = True
        self.finished = False
        self.poller = zmq.Poller()
        self.poller.register(worker.stop_fd, zmq.POLLIN)
        for socket in (*self.intake.sockets(), self.results.socket, self.fan_out.socket, self.events.socket):
            self.poller.register(socket, zmq.POLLIN)

    def close(self) -> None:
        for part in (self.fan_out, self.events, self.intake, self.results):
            part.close()

    def poll_once(self) -> None:
        """Sleep until something arrives or is due, then receive, draw and send."""
        self.worker.heartbeat.beat()
        self.poller.poll(int(self.timeout() * 1000) + 1)
        now = time.monotonic()
        self.update_demand(now)
        for item in self.results.receive():
            if isinstance(item, TaskList):
                self.on_tasks(item, now)
            elif isinstance(item, ResultEvent):
                self.on_result(item)
        for frame in self.intake.receive():
            self.pacer.put(frame)
        if self.has_viewers:
            self.intake.request()
            now = time.monotonic()
            if (paced := self.pacer.take(now)) is not None:
                self.show(paced, now)
        self.finished = self.intake.ended and self.pacer.is_empty
        self.events.receive()
        self.events.resend()

    def timeout(self) -> float:
        """Return the seconds to sleep if nothing arrives."""
        return max(0.0, min(TICK_S, self.pacer.next_at() - time.monotonic())) if self.has_viewers else TICK_S

    def update_demand(self, now: float) -> None:
        """Frames are fetched, drawn and encoded only while an output or a client takes them."""
        had_viewers, self.has_viewers = self.has_viewers, self.fan_out.has_viewers()
        if self.has_viewers and not had_viewers:
            self.pacer.resume(now)

    def on_tasks(self, received: TaskList, now: float) -> None:
        """Follow tasks that are added, removed, paused or resumed while the agent runs."""
        if received.tasks != self.tasks:
            self.tasks = received.tasks
            config = with_tasks(self.worker.config, self.id.stream, self.tasks)
            self.set_tasks(config.streams[self.id.stream].active, now)

    def set_tasks(self, tasks: Sequence[ScheduledTask], now: float) -> None:
        """Replace the tasks that are drawn. Those that wait for a change may answer only once in `UNCHANGED_S`."""
        intervals = {
            task.name: UNCHANGED_S if task.changes or task.when != "always" else task.every or DEFAULT_EVERY_S
            for task in tasks
        }
        all_day = [intervals[task.name] for task in tasks if not task.at and not task.between]
        zones = [task.zone for task in tasks if task.zone is not None]
        self.renderer.set_tasks(intervals, min(all_day, default=None), zones, now)

    def on_result(self, event: ResultEvent) -> None:
        self.renderer.overlays.add(event, time.monotonic())
        timing = event.data.timing
        if self.id.sync and timing.waited_ms is not None:
            self.pacer.observe_latency((timing.waited_ms + timing.inference_ms) / 1000)

    def show(self, paced: PacedFrame, now: float) -> None:
        """Draw one frame and send it to the outputs."""
        if (image := self.renderer.render(paced, now)) is not None:
            self.fan_out.write(image, paced.at - self.started, 1 / self.pacer.interval)
