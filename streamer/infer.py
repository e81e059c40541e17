"""The inference process: what is due, the freshest frames of all streams, batches over streams and tasks, results.

Jobs are chosen early and pixels pulled late: a frame is fetched only when the engine is about to be free. A fetch is
answered at once; where no wanted frame exists yet, capture is asked to tell when one does. A frame is settled, and
its buffer free again, once emit has accepted all of its events.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

import zmq

from streamer.bus.delivery import EventClient
from streamer.bus.frames import FrameClient, NoBuffer, Reply
from streamer.config import Stream, find_pipeline
from streamer.events import result_event
from streamer.schedule import Schedule
from streamer.types import Engine, Frame, FrameId, Job, Result
from streamer.worker import Worker

log = logging.getLogger(__name__)

GATHER_S = 0.05
"""Longest wait for the answers to fetches before the engine runs with what is there."""
WAIT_S = 1.0
"""How long capture may hold a question for a frame that does not exist yet."""
TICK_S = 0.25
"""Longest sleep: unacked events are sent again on this beat."""
DRAIN_S = 3.0
FRAMES_AHEAD = 16
"""Frames in the engine or waiting for their events to be accepted, at least."""


@dataclass(slots=True)
class _Open:
    """A frame that is not settled yet."""

    frame: Frame
    unfinished: set[str]
    """Names of its tasks whose events are not accepted."""
    answered: bool = False


@dataclass(slots=True)
class _Stream:
    schedule: Schedule
    asked: int | None = None
    """The request that has no answer yet."""
    fetching: bool = False
    ready: bool = True
    """A wanted frame may exist: fetch rather than wait."""
    ended: bool = False
    opened: dict[FrameId, _Open] = field(default_factory=dict)


def run(worker: Worker) -> None:
    """Serve all streams of the config until asked to stop."""
    engine = find_pipeline().open(worker.agent.model)
    with Inference(worker, engine) as inference:
        worker.report("ready")
        while not worker.stopping:
            inference.turn()
        inference.drain()


class Inference:
    """One engine and the streams it serves."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        self.worker, self.engine = worker, engine
        streams = worker.agent.streams
        self.frames = FrameClient(worker.runtime, "infer", max(FRAMES_AHEAD, 2 * len(streams), 2 * engine.free()))
        self.events = EventClient(worker.runtime, "infer")
        now = time.monotonic()
        self.streams = {name: self._connect(name, stream, now) for name, stream in streams.items()}
        self.waiting: deque[Job] = deque()
        self.in_engine = 0
        self.events_of: dict[str, tuple[str, FrameId, str]] = {}
        self.gather_until = -math.inf
        self.poller = zmq.Poller()
        self.poller.register(worker.stop_fd, zmq.POLLIN)
        for socket in (*self.frames.sockets(), self.events.socket):
            self.poller.register(socket, zmq.POLLIN)

    def _connect(self, name: str, stream: Stream, now: float) -> _Stream:
        self.frames.connect(name)
        return _Stream(Schedule(name, stream.tasks, stream.source.pace, now))

    def __enter__(self) -> Inference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.frames.close()
        self.events.close()

    def turn(self) -> None:
        """Ask for frames, take what came, let the engine work once if it has something, hand the results on."""
        self.ask()
        self.poller.poll(math.ceil(self.pause() * 1000))
        for reply in self.frames.receive():
            self.take(reply)
        self.settle(self.events.receive())
        self.events.resend()
        if not self.gathering():
            self.work()

    # -- frames in

    def ask(self) -> None:
        """Fetch for every stream that has something due, the most overdue first, while there is room."""
        now = time.monotonic()
        for name, stream in sorted(self.streams.items(), key=lambda item: item[1].schedule.next_due()):
            want = None if stream.ended or stream.asked is not None else stream.schedule.want(now)
            if want is None:
                continue
            if not stream.ready:
                stream.asked, stream.fetching = self.frames.wait(name, want, WAIT_S), False
            elif self.has_room():
                try:
                    stream.asked, stream.fetching = self.frames.fetch(name, want), True
                except NoBuffer:
                    return
                self.gather_until = max(self.gather_until, now + GATHER_S) if self.gathering() else now + GATHER_S

    def has_room(self) -> bool:
        """No more frames than the engine takes at once, and none while emit does not keep up."""
        fetching = sum(stream.fetching for stream in self.streams.values())
        return not self.events.full and len(self.waiting) + fetching < self.engine.free()

    def gathering(self) -> bool:
        """A fetch is on its way, and still in time for the next batch."""
        return time.monotonic() < self.gather_until and any(stream.fetching for stream in self.streams.values())

    def pause(self) -> float:
        """Seconds to sleep if nothing arrives."""
        now = time.monotonic()
        if self.gathering():
            return max(0.0, self.gather_until - now)
        if self.waiting or self.in_engine:
            return 0.0
        due = [s.schedule.next_due() - now for s in self.streams.values() if s.asked is None and not s.ended]
        return min(TICK_S, max(0.0, min((wait for wait in due if wait > 0), default=TICK_S)))

    def take(self, reply: Reply) -> None:
        """One answer of a capture process."""
        stream = self.streams[reply.stream]
        if reply.request == stream.asked:
            stream.ready = reply.ready or (stream.fetching and reply.frame is not None)
            stream.asked, stream.fetching, stream.ended = None, False, reply.ended
        if reply.frame is not None:
            self.open(stream, reply.frame)

    def open(self, stream: _Stream, frame: Frame) -> None:
        """Make the jobs of a frame."""
        jobs = [Job(due, frame) for due in stream.schedule.take(frame, time.monotonic())]
        if not jobs:
            self.frames.settle(frame, "stale")
            return
        stream.opened[frame.id] = _Open(frame, {job.due.name for job in jobs})
        self.waiting.extend(jobs)

    # -- results out

    def work(self) -> None:
        """Hand waiting jobs to the engine and let it make one step."""
        room = min(len(self.waiting), self.engine.free())
        if room:
            self.engine.admit([self.waiting.popleft() for _ in range(room)])
            self.in_engine += room
        if self.in_engine:
            for result in self.engine.step():
                self.in_engine -= 1
                self.publish(result)

    def publish(self, result: Result) -> None:
        due, frame = result.job.due, result.job.frame
        event = result_event(self.worker.agent.agent, result, self.engine.model, getattr(due.params, "quality", ""))
        self.events_of[event.id] = (due.stream, frame.id, due.name)
        self.streams[due.stream].opened[frame.id].answered |= result.outcome != "error"
        self.events.send(event, frame.captured_mono)

    def settle(self, accepted: list[str]) -> None:
        """Close the frames whose last event is safe."""
        for event in accepted:
            name, key, task = self.events_of.pop(event)
            stream = self.streams[name]
            stream.opened[key].unfinished.discard(task)
            if not stream.opened[key].unfinished:
                done = stream.opened.pop(key)
                self.frames.settle(done.frame, "done" if done.answered else "error")

    def drain(self) -> None:
        """Finish what is in the engine, have its events accepted, and give back every frame."""
        until = time.monotonic() + DRAIN_S
        dropped = {(job.due.stream, job.frame.id): job.frame for job in self.waiting}
        self.waiting.clear()
        while self.in_engine and time.monotonic() < until:
            self.work()
        while self.events.unacked and time.monotonic() < until:
            self.events.socket.poll(20)
            self.settle(self.events.receive())
            self.events.resend()
        for frame in dropped.values():
            self.frames.settle(frame, "stopped")
