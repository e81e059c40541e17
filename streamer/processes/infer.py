"""The inference process: what is due, the freshest frames of all streams, batches over streams and tasks, results.

Jobs are chosen early and pixels pulled late: a frame is fetched only when the engine is about to be free. A fetch is
answered at once; where no wanted frame exists yet, capture is asked to tell when one does. A frame is settled, and
its buffer free again, once emit has accepted all of its events.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

import zmq

from streamer.bus.event_channel import EventClient
from streamer.bus.frame_client import FrameClient, NoBuffer, Reply
from streamer.bus.result_feed import ResultPublisher
from streamer.config.model import Stream, find_pipeline
from streamer.config.task import DEFAULT_EVERY_S
from streamer.events.build import canary_event, result_event, schedule_event
from streamer.inference.canary import Canary
from streamer.inference.crop import crop_to_zone, to_full_frame
from streamer.inference.journal import InFlightJournal, key
from streamer.inference.policy import Policy, most_urgent_first
from streamer.inference.requests import RequestHandler
from streamer.inference.schedule import Now, Schedule
from streamer.inference.step_timeout import StepTimeout
from streamer.inference.tracking import ObjectTracker
from streamer.processes.heartbeat import LOADING_S
from streamer.processes.worker import Worker
from streamer.types import Engine, Frame, FrameId, FrameOutcome, Job, Outcome, Result, Zone

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
_ALL_ALIKE: tuple[Literal["stale", "unchanged"], ...] = ("stale", "unchanged")


@dataclass(slots=True)
class _OpenFrame:
    """A frame that is not settled yet."""

    frame: Frame
    unfinished: set[str]
    """Names of its tasks whose events are not accepted."""
    outcomes: set[Outcome] = field(default_factory=set)
    parts: dict[Zone, Frame] = field(default_factory=dict)
    """What its tasks with a zone see."""

    def show(self, job: Job) -> Job:
        """The job with what its task sees of the frame."""
        zone = job.due.task.zone
        if zone is None:
            return job
        if zone not in self.parts:
            self.parts[zone] = crop_to_zone(zone, self.frame)
        return Job(job.due, self.parts[zone])

    def whole(self, result: Result) -> Result:
        """The result with its places in the full frame."""
        zone = result.job.due.task.zone
        if zone is None:
            return result
        job = Job(result.job.due, self.frame)
        return replace(result, job=job, answer=to_full_frame(result.answer, zone, self.frame))

    @property
    def frame_outcome(self) -> FrameOutcome:
        for fate in _ALL_ALIKE:
            if self.outcomes <= {fate}:
                return fate
        return "done" if self.outcomes - {"stale", "unchanged", "error"} else "error"


@dataclass(slots=True)
class _Stream:
    schedule: Schedule
    asked: int | None = None
    """The request that has no answer yet."""
    chosen: set[str] = field(default_factory=set)
    """The tasks for which a frame is being fetched."""
    unused: set[str] = field(default_factory=set)
    """Tasks that were chosen, and for which there was no frame."""
    opened: dict[FrameId, _OpenFrame] = field(default_factory=dict)


def run(worker: Worker) -> None:
    """Serve all streams of the config until asked to stop."""
    worker.heartbeat.beat("loading", LOADING_S)
    engine = find_pipeline().open(worker.config.model)
    with Inference(worker, engine) as inference:
        inference.report_crash()
        worker.report("ready")
        while not worker.stopping:
            inference.poll_once()
        inference.drain()


def _now() -> Now:
    return Now(time.monotonic(), time.time())


def _tracks(streams: Mapping[str, Stream]) -> ObjectTracker:
    """Tracks for every task of every stream; `every_n_frames` has no seconds, so it is taken for the default."""
    tasks = [(name, task) for name, stream in streams.items() for task in stream.tasks]
    return ObjectTracker({(name, task.name): task.every or DEFAULT_EVERY_S for name, task in tasks})


class Inference:
    """One engine and the streams it serves."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        self.worker, self.engine = worker, engine
        streams = worker.config.streams
        self.frames = FrameClient(worker.runtime, "infer", max(FRAMES_AHEAD, 2 * len(streams), 2 * engine.free()))
        self.events = EventClient(worker.runtime, "infer")
        self.results = ResultPublisher(worker.runtime)
        self.tracker = _tracks(streams)
        now = _now()
        self.streams = {name: self._connect(name, stream, now) for name, stream in streams.items()}
        schedules = {name: stream.schedule for name, stream in self.streams.items()}
        self.policy = Policy(schedules, now)
        self.requests = RequestHandler(worker.runtime, worker.config, schedules, self.policy)
        self.waiting: list[Job] = []
        self.reserved = 0
        """Jobs for which frames are being fetched."""
        self.running: dict[tuple[str, str, FrameId], Job] = {}
        """What the engine has."""
        self.step_timeout = StepTimeout()
        self.canary = Canary(lambda: self.requests.streams)
        self.journal = InFlightJournal(worker.runtime, worker.config.name, streams)
        self.events_of: dict[str, tuple[str, FrameId, str]] = {}
        self.gather_until = -math.inf
        self.poller = zmq.Poller()
        self.poller.register(worker.stop_fd, zmq.POLLIN)
        for socket in (*self.frames.sockets(), self.events.socket, self.requests.socket):
            self.poller.register(socket, zmq.POLLIN)

    def _connect(self, name: str, stream: Stream, now: Now) -> _Stream:
        self.frames.connect(name)
        return _Stream(Schedule(name, stream.active, stream.source.pace, now))

    def __enter__(self) -> Inference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.frames.close()
        self.events.close()
        self.results.close()
        self.requests.close()

    def poll_once(self) -> None:
        """Ask for frames, take what came, let the engine work once if it has something, hand the results on."""
        self.worker.heartbeat.beat()
        for name in self.requests.receive(_now()):
            self.refresh_wait(name)
        self.fetch_frames()
        self.poller.poll(math.ceil(self.pause() * 1000))
        for reply in self.frames.receive():
            self.on_reply(reply)
        self.settle(self.events.receive())
        self.events.resend()
        if not self.gathering():
            self.run_engine()
        if not self.running and not self.waiting and not self.reserved:
            self.run_canary()
        self.journal.save()

    # -- frames in

    def fetch_frames(self) -> None:
        """Fetch frames for the most urgent tasks, as many as there is room for."""
        now = _now()
        for name, tasks in self.policy.choose(self.room(), now).items():
            stream = self.streams[name]
            want = stream.schedule.next_request(now, tasks)
            try:
                if want is not None:
                    stream.asked = self.frames.fetch(name, want)
            except NoBuffer:
                want = None
            if want is None:
                self.policy.release(name, now, tasks)
                continue
            stream.chosen = tasks
            self.reserved += len(tasks)
            self.gather_until = max(self.gather_until, now.mono + GATHER_S) if self.gathering() else now.mono + GATHER_S

    def room(self) -> int:
        """No more jobs than the engine takes at once, and none while emit does not keep up."""
        return 0 if self.events.window_full else self.engine.free() - len(self.waiting) - self.reserved

    def gathering(self) -> bool:
        """A fetch is on its way, in time for the next batch, and no answer in the engine is held up by waiting."""
        return self.reserved > 0 and not self.running and time.monotonic() < self.gather_until

    def pause(self) -> float:
        """Seconds to sleep if nothing arrives."""
        now = _now()
        if self.gathering():
            return max(0.0, self.gather_until - now.mono)
        if self.waiting or self.running:
            return 0.0
        return min(TICK_S, self.policy.wait(now))

    def on_reply(self, reply: Reply) -> None:
        """One answer of a capture process."""
        stream, now = self.streams[reply.stream], _now()
        if reply.request != stream.asked:
            return  # another question took its place
        chosen, stream.asked, stream.chosen = stream.chosen, None, set()
        self.reserved -= len(chosen)
        if reply.frame is not None:
            chosen = chosen - self.open_frame(stream, reply.frame, chosen, now)
        elif chosen:
            stream.schedule.skip_stale(reply.newest)
        stream.unused |= chosen
        if reply.ended:
            self.policy.remove(reply.stream)
        elif reply.ready or reply.frame is not None or not self.wait(reply.stream, stream, now):
            self.policy.release(reply.stream, now, stream.unused)
            stream.unused = set()

    def wait(self, name: str, stream: _Stream, now: Now) -> bool:
        """Have capture tell when there is a wanted frame; False when none is wanted."""
        want = stream.schedule.next_request(now)
        if want is None:
            return False
        # Not beyond the next tick: then another frame may be wanted.
        timeout = min(WAIT_S, max(stream.schedule.wait(now), 0.01))
        stream.asked = self.frames.wait(name, want, timeout)
        return True

    def refresh_wait(self, name: str) -> None:
        """Its tasks are others now: if capture was asked to tell of a frame, it may be another one."""
        stream = self.streams[name]
        if stream.asked is not None and not stream.chosen:
            self.wait(name, stream, _now())

    def open_frame(self, stream: _Stream, frame: Frame, chosen: set[str], now: Now) -> set[str]:
        """Make the jobs of a frame; gives the names of their tasks."""
        jobs = [Job(due, frame) for due in stream.schedule.pop_due(frame, now, chosen)]
        if not jobs:
            self.frames.settle(frame, "stale")
            return set()
        names = {job.due.task.name for job in jobs}
        stream.opened[frame.id] = _OpenFrame(frame, names.copy())
        self.journal.add(jobs)
        self.waiting.extend(job for job in jobs if job.due.unchanged_since is None)
        for job in jobs:
            if job.due.unchanged_since is not None:
                self.publish(Result(job, "unchanged"))
        return names

    # -- results out

    def run_engine(self) -> None:
        """Hand waiting jobs to the engine and let it make one step."""
        started = time.monotonic()
        jobs = self.next_jobs(started)
        self.running.update((key(job), job) for job in jobs)
        if self.running:
            for result in self.step(jobs):
                del self.running[key(result.job)]
                self.journal.finish(result.job)
                self.policy.record_job(result.job.due, result.inference_s / result.batch)
                self.publish(self.streams[result.job.due.stream].opened[result.job.frame.id].whole(result))
            self.policy.overload.record_busy(time.monotonic() - started)
        if self.policy.adapt(_now()):
            self.report_stretch()

    def step(self, jobs: list[Job]) -> list[Result]:
        """The engine's turn, within the time that it may take."""
        started = time.monotonic()
        self.journal.start(jobs)
        self.worker.heartbeat.beat("batch", self.step_timeout.seconds(self.running.values()))
        if jobs:
            self.engine.admit([self.streams[job.due.stream].opened[job.frame.id].show(job) for job in jobs])
        results = self.engine.step()
        took = time.monotonic() - started
        self.step_timeout.observe(self.running.values(), [result.job for result in results], took)
        self.worker.heartbeat.beat()
        return results

    def next_jobs(self, now: float) -> list[Job]:
        """The most urgent of what waits, as much as the engine takes; what is too old is answered so."""
        jobs, self.waiting = most_urgent_first(self.waiting), []
        fresh: list[Job] = []
        for job in jobs:
            age, most = now - job.frame.captured_mono, job.due.task.max_age
            if most is not None and age > most:
                self.publish(Result(job, "stale", error=f"the frame was {age:.2f} s old, `max_age` is {most:g} s"))
            else:
                fresh.append(job)
        ready, later, refused = self.journal.admit(fresh)
        for job in refused:
            self.publish(Result(job, "error", error="left out: it has ended the inference process before"))
        room = self.engine.free()
        self.waiting = later + ready[room:]
        return ready[:room]

    def run_canary(self) -> None:
        """When nothing has come out for a while: show that an answer still would."""
        job = self.canary.job(self.journal.may_run)
        if job is None:
            return
        self.journal.add([job])
        self.journal.start([job])
        self.worker.heartbeat.beat("batch", self.step_timeout.seconds([job]))
        self.engine.admit([job])
        while not (results := self.engine.step()):
            self.worker.heartbeat.beat("batch", self.step_timeout.seconds([job]))
        self.journal.finish(job)
        self.journal.remove(*key(job))
        if results[0].outcome in ("ok", "empty"):
            self.events.send(canary_event(self.worker.config.name, results[0].inference_s), None)
        else:
            log.error("the model answers nothing: %s", results[0].error)

    def report_crash(self) -> None:
        """Give the jobs that died with the process before an outcome, and say what killed it; until that is safe."""
        remains = self.journal.recover(self.worker.was_killed)
        self.journal.save()
        for result in remains.lost:
            event = result_event(self.worker.config.name, result, self.engine.model)
            self.events.send(event, result.job.frame.captured_mono)
        if remains.verdict is not None:
            self.events.send(remains.verdict, None)
        while not (self.events.flush(TICK_S) or self.worker.stopping):
            self.worker.heartbeat.beat()
        for result in remains.lost if not self.events.unacked else ():
            self.journal.remove(*key(result.job))
        self.journal.save()

    def report_stretch(self) -> None:
        stretch = self.policy.stretches()
        reason = "the model cannot do everything at the configured intervals" if stretch else None
        log.info("intervals: %s", self.policy.overload.factors)
        self.events.send(schedule_event(self.worker.config.name, stretch, reason), None)

    def publish(self, result: Result) -> None:
        if self.requests.reply(result, self.engine.model):
            self.finish_task(*key(result.job))
            return
        result = self.tracker.assign_ids(result)
        due, frame = result.job.due, result.job.frame
        event = result_event(self.worker.config.name, result, self.engine.model)
        self.events_of[event.id] = (due.stream, frame.id, due.task.name)
        self.streams[due.stream].opened[frame.id].outcomes.add(result.outcome)
        self.canary.on_outcome(result.outcome)
        self.results.publish(event)
        self.events.send(event, frame.captured_mono)

    def settle(self, accepted: list[str]) -> None:
        """Close the frames whose last event is safe."""
        for event in accepted:
            if event not in self.events_of:
                continue  # it is of no frame
            name, frame, task = self.events_of.pop(event)
            self.finish_task(name, task, frame)

    def finish_task(self, name: str, task: str, frame: FrameId) -> None:
        """A task is through with a frame; the last one gives it back."""
        stream = self.streams[name]
        self.journal.remove(name, task, frame)
        stream.opened[frame].unfinished.discard(task)
        if not stream.opened[frame].unfinished:
            done = stream.opened.pop(frame)
            self.frames.settle(done.frame, done.frame_outcome)

    def drain(self) -> None:
        """Finish what is in the engine, have its events accepted, and give back every frame."""
        until = time.monotonic() + DRAIN_S
        dropped = {(job.due.stream, job.frame.id): job.frame for job in self.waiting}
        for job in self.waiting:
            self.journal.remove(*key(job))
        self.waiting.clear()
        while self.running and time.monotonic() < until:
            self.run_engine()
        while self.events.unacked and time.monotonic() < until:
            self.events.socket.poll(20)
            self.settle(self.events.receive())
            self.events.resend()
        for frame in dropped.values():
            self.frames.settle(frame, "stopped")
        self.journal.save()
