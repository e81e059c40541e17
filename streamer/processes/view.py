"""The view process: one stream's pictures with its answers drawn on them, at camera rate, to all who take them.

It looks on: capture and inference never wait for it. It draws once and encodes once. A picture is shown as soon as it
comes; when none comes, the last one again, so that the output keeps its clock whatever became of the camera or model.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import numpy as np
import zmq

from streamer.bus.event_channel import EventClient
from streamer.bus.frame_client import FrameClient, FrameRequest, NoBuffer, Reply
from streamer.bus.result_feed import ResultSubscriber
from streamer.bus.rpc import RpcClient, control_socket
from streamer.config.changes import with_tasks
from streamer.config.task import DEFAULT_EVERY_S, ScheduledTask
from streamer.events.schema import ResultEvent
from streamer.inference.schedule import UNCHANGED_S
from streamer.processes.worker import Worker
from streamer.types import FrameId, Image, Zone
from streamer.video.draw import Painter
from streamer.video.fan_out import FanOut, JpegPublisher
from streamer.video.outputs import SYNC, OutputContext, outputs_by_view, stream_of
from streamer.video.overlay import Overlays, moment
from streamer.video.pacing import FramePacer, PacedFrame, QueuedFrame

log = logging.getLogger(__name__)

TICK_S = 0.25
UPDATE_TASKS_S = 1.0
"""Between two questions to the parent about which tasks there are."""
WAIT_S = 1.0
FIRST_PICTURE_S = 3.0
"""A camera that has shown nothing for so long gets a card, of this size until its own is known:"""
CARD = 1280, 720
SYNC_START_S, SYNC_MARGIN_S, SYNC_MOST_S = 1.0, 0.15, 10.0
"""With `sync`: the delay to begin with, what it is more than the latest answer, and at most."""


def run(worker: Worker) -> None:
    """Serve one view until its stream has ended or a stop was asked for. Raises ConfigError when it cannot encode."""
    assert worker.stream is not None
    with View(worker, worker.stream) as view:
        worker.report("ready")
        while not worker.stopping and not view.over:
            view.poll_once()


class View:
    """One view. A context manager; `turn` is its life."""

    def __init__(self, worker: Worker, name: str) -> None:
        self.worker, self.stream = worker, stream_of(name)
        self.synced = name.endswith(SYNC)
        self.over = False
        now = time.monotonic()
        tasks = worker.config.streams[self.stream].active
        self.tasks = worker.config.raw["streams"][self.stream]["tasks"]
        self.update_tasks_at = now
        self.parent = RpcClient(control_socket(worker.runtime))
        self.overlays = Overlays(*_expected(tasks), now)
        self.pacer = FramePacer(now, SYNC_START_S if self.synced else 0.0)
        self.frames = FrameClient(worker.runtime, "view", 3)
        self.frames.connect(self.stream)
        self.results = ResultSubscriber(worker.runtime, self.stream)
        self.events = EventClient(worker.runtime, f"view-{name}")
        context = OutputContext(worker.runtime, name)
        self.fan_out = FanOut(worker.config.name, outputs_by_view(worker.config.outputs)[name], context, self.events)
        self.jpeg = JpegPublisher(context)
        self.pending_request: int | None = None
        self.ready = True
        self.ended = False
        self.newest: FrameId | None = None
        self.has_viewers = True
        self.zones = _zones(tasks)
        self.painter = Painter(*CARD, self.zones)
        self.began = now
        self.poller = zmq.Poller()
        self.poller.register(worker.stop_fd, zmq.POLLIN)
        for socket in (*self.frames.sockets(), self.results.socket, self.jpeg.socket, self.events.socket):
            self.poller.register(socket, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.fan_out.close()
        self.events.close()
        self.frames.close()
        self.results.close()
        self.jpeg.close()
        self.parent.close()

    def poll_once(self) -> None:
        """Sleep until something happens, take what came, show what is due."""
        self.worker.heartbeat.beat()
        self.poller.poll(int(self.pause() * 1000) + 1)
        self.jpeg.listen()
        self.update_demand()
        self.update_tasks()
        for item in self.results.receive():
            if isinstance(item, ResultEvent):
                self.on_result(item)
        for reply in self.frames.receive():
            self.on_reply(reply)
        self.request_frame()
        now = time.monotonic()
        if self.has_viewers and (due := self.pacer.take(now)) is not None:
            self.show(due, now)
        self.over = self.ended and self.pacer.empty
        self.events.receive()
        self.events.resend()

    def pause(self) -> float:
        """Seconds to sleep if nothing arrives."""
        return max(0.0, min(TICK_S, self.pacer.next_at() - time.monotonic())) if self.has_viewers else TICK_S

    # -- in

    def update_demand(self) -> None:
        """Pictures are asked for only while somebody takes them."""
        looked = self.fan_out.any or self.jpeg.watched
        if looked and not self.has_viewers:
            self.pacer.resume(time.monotonic())
        self.has_viewers = looked

    def update_tasks(self) -> None:
        """Which tasks the stream has now: they come and go while it runs."""
        now = time.monotonic()
        if now >= self.update_tasks_at:
            self.parent.send(op="tasks", stream=self.stream)
            self.update_tasks_at = now + UPDATE_TASKS_S
        for answer in self.parent.receive():
            if answer.get("tasks", self.tasks) == self.tasks:
                continue
            self.tasks = answer["tasks"]
            tasks = with_tasks(self.worker.config, self.stream, self.tasks).streams[self.stream].active
            self.overlays.replan(*_expected(tasks), now)
            self.zones = _zones(tasks)
            self.painter = Painter(*self.painter.size, self.zones)

    def request_frame(self) -> None:
        """For the next picture: be told when there is one, then fetch it."""
        if self.pending_request is not None or self.ended or not self.has_viewers:
            return
        want = FrameRequest(after=self.newest)
        if not self.ready:
            self.pending_request = self.frames.wait(self.stream, want, WAIT_S)
            return
        with contextlib.suppress(NoBuffer):
            self.pending_request = self.frames.fetch(self.stream, want)

    def on_reply(self, reply: Reply) -> None:
        if reply.request == self.pending_request:
            self.pending_request = None
            self.ready = reply.ready and reply.frame is None
            self.ended = reply.ended
        if reply.frame is None:
            return
        frame = reply.frame
        self.newest = frame.id
        height, width = frame.image.shape[:2]
        picture = frame.image[: height // 2 * 2, : width // 2 * 2].copy()  # H.264 has even sizes
        self.pacer.put(QueuedFrame(frame.id, frame.captured_at, frame.captured_mono, frame.pts, picture))
        self.frames.settle(frame, "done")

    def on_result(self, event: ResultEvent) -> None:
        now = time.monotonic()
        self.overlays.add(event, now)
        if self.synced and (waited := event.data.timing.waited_ms) is not None:
            latency = (waited + event.data.timing.inference_ms) / 1000 + SYNC_MARGIN_S
            self.pacer.delay = max(self.pacer.delay, min(latency, SYNC_MOST_S))

    # -- out

    def show(self, due: PacedFrame, now: float) -> None:
        """Draw and hand on one picture."""
        if due.shown is None and now - self.began < FIRST_PICTURE_S:
            return
        image = self.drawn(due, now)
        self.fan_out.write(image, due.at - self.began, 1 / self.pacer.interval)
        self.jpeg.send(image)

    def drawn(self, due: PacedFrame, now: float) -> Image:
        shown = due.shown
        # A copy: without a next picture this one is shown again, and drawn upon anew.
        image = np.zeros((CARD[1], CARD[0], 3), np.uint8) if shown is None else shown.image.copy()
        height, width = image.shape[:2]
        if self.painter.size != (width, height):
            self.painter = Painter(width, height, self.zones)
        if shown is None:
            self.painter.lost(image, f"no picture for {now - self.began:.0f} s", time.time())
        elif due.lost is not None:
            self.painter.lost(image, f"camera lost {due.lost:.0f} s", time.time())
        else:
            at = moment(shown.id.epoch, shown.pts, shown.captured_at)
            self.overlays.see(shown.id, at, shown.image)
            self.painter.draw(image, self.overlays.at(shown.id, at, now), shown.captured_at)
        return image


def _expected(tasks: Iterable[ScheduledTask]) -> tuple[dict[str, float], float | None]:
    """Seconds between two answers, by task; and of those that are asked at all hours, of the one asked most often."""
    intervals = {task.name: UNCHANGED_S if task.when != "always" else task.every or DEFAULT_EVERY_S for task in tasks}
    always = [intervals[task.name] for task in tasks if not task.at and not task.between]
    return intervals, min(always, default=None)


def _zones(tasks: Iterable[ScheduledTask]) -> dict[Zone, None]:
    """Those that are drawn, each once."""
    return dict.fromkeys(task.zone for task in tasks if task.zone is not None)
