"""An inference process: chooses due tasks, fetches frames for them, runs batches over all streams, publishes results.

When the engine has room, the due tasks are chosen and their frames fetched at once; nothing is fetched in advance. A
frame is settled, and its buffer free again, once emit has acked the events of all its jobs.
"""

from __future__ import annotations

import math
import time

import zmq

from streamer.bus.event_channel import EventClient
from streamer.bus.frame_client import FrameClient
from streamer.bus.result_feed import ResultPublisher
from streamer.config.model import find_pipeline
from streamer.config.task import DEFAULT_EVERY_S
from streamer.core.backoff import ReportRate
from streamer.core.closing import Closing
from streamer.events.ledger import LEDGER_FILE
from streamer.inference import tracking
from streamer.inference.canary import Canary
from streamer.inference.collecting import collector_of, judged_first
from streamer.inference.content_changes import ContentChanges, sent_by_ledger
from streamer.inference.fetcher import FrameFetcher
from streamer.inference.follow_ups import FollowUps, follow_ups_of
from streamer.inference.handover import Handover
from streamer.inference.in_flight import InFlight, JobState
from streamer.inference.model_trial import check_memory, try_tasks
from streamer.inference.outbox import Outbox
from streamer.inference.policy import Policy, most_urgent_first
from streamer.inference.publisher import OutcomePublisher
from streamer.inference.requests import RequestHandler
from streamer.inference.result_check import check_numbers
from streamer.inference.schedule import make_schedule
from streamer.inference.snapshot_choice import SnapshotChoice
from streamer.inference.snapshots import SnapshotMaker
from streamer.inference.speed import SpeedMeter
from streamer.inference.step_timeout import StepTimeout
from streamer.inference.tracking import ObjectTracker
from streamer.inference.triggers import Now
from streamer.processes.assignment import ReportKind, Role, child_name
from streamer.processes.worker import Worker
from streamer.types import Engine, Job, Result

MAX_SLEEP_S = 0.25
"""Longest sleep of the main loop, so that overdue acks are noticed."""
DRAIN_S = 3.0
"""Longest time for finishing the jobs in flight when the process stops."""
MIN_BUFFERS = 16
"""Minimum number of frame buffers."""
SNAPSHOT_SHARE = 0.1
"""Part of the time of a step for which the next one waits for snapshots: their results would be sent after it."""


def run(worker: Worker) -> None:
    """Serve streams of the config until asked to stop: all, or those that the parent names, if there are several."""
    alive = worker.heartbeat.beat_loading
    alive()
    if worker.assignment.is_trial:
        check_memory(find_pipeline().memory(worker.config.model))
    engine = find_pipeline().open(worker.config.model, alive)
    if worker.assignment.is_trial:
        try_tasks(engine, worker.config.streams, alive)
        tracking.import_libraries()  # now: the first answers after the handover would wait for them
    with Inference(worker, engine) as inference:
        inference.publisher.publish_warnings(engine.warnings)
        inference.report_crash()
        worker.report(ReportKind.READY, model=engine.model)
        while not worker.stopping:
            inference.poll_once()
        inference.drain()


def _now() -> Now:
    return Now(time.monotonic(), time.time())


class Inference(Closing):
    """One engine and the streams it serves."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        self.worker, self.engine = worker, engine
        config, now = worker.config, _now()
        streams = config.streams
        serves = worker.assignment.serves
        if serves is None:
            serves = dict.fromkeys(streams if len(worker.assignment.inference) == 1 else ())
        served = {name: streams[name] for name in serves}
        self.leases = dict(serves)
        """Streams that are served, with `lease` as of `ServeStream`."""
        process, target = child_name(Role.INFER, worker.target), worker.target
        start = Now(*worker.assignment.since) if worker.assignment.since else now
        schedules = {name: make_schedule(streams, name, start) for name in served}
        self.policy = Policy(schedules, now)
        self.stretch_reports = ReportRate()
        self.step_timeout = StepTimeout()
        self.step_s = 0.0
        """Duration of the last step of the engine."""
        buffers = max(MIN_BUFFERS, 2 * len(streams), 2 * engine.free())
        self.frames = FrameClient(worker.runtime, "infer", buffers)
        self.collector = collector_of(config, engine.model, worker.state)
        settle = judged_first(self.collector, self.frames.settle)
        self.in_flight = InFlight(worker.runtime, streams, settle, worker.assignment.quarantine, process)
        self.fetcher = FrameFetcher(self.frames, self.policy, self.in_flight)
        self.events = EventClient(worker.runtime, process)
        self.feed = ResultPublisher(
            worker.runtime, {name: config.raw["streams"][name]["tasks"] for name in served}, target
        )
        self.requests = RequestHandler(worker.runtime, config, self.policy, self.feed, target)
        self.canary = Canary(self.requests, self.in_flight)
        # `every_n_frames` has no seconds: the tracker takes the default interval for it.
        tasks = [(name, task) for name, stream in streams.items() for task in stream.tasks]
        intervals = {(name, task.name): task.every or DEFAULT_EVERY_S for name, task in tasks}
        tracker = ObjectTracker(intervals, worker.heartbeat.beat_loading)
        self.changes = ContentChanges(sent_by_ledger(worker.state / LEDGER_FILE))
        choice = SnapshotChoice(config)
        self.snapshots = None if choice.is_empty else SnapshotMaker(worker.state, config.snapshots, buffers // 2)
        reporter = process if len(worker.assignment.inference) > 1 else None
        self.outbox = Outbox(config.name, self.events, self.snapshots, reporter)
        self.publisher = OutcomePublisher(
            config.name, engine.model, self.in_flight, self.events, self.feed, self.requests, self.canary, tracker,
            FollowUps(), self.changes, self.policy.overload, self.outbox, choice, self.collector, reporter,
            self.leases,
        )  # fmt: skip
        self.handover = Handover(
            self.requests, self.policy, self.fetcher, self.in_flight, self.publisher, self.feed, self.leases
        )
        self.speed = SpeedMeter(find_pipeline().costs(config.model).seconds, now.mono)
        self.poller = self.make_poller()

    def close(self) -> None:
        for connection in (self.collector, self.snapshots, self.frames, self.events, self.feed, self.requests):
            if connection is not None:
                connection.close()

    def make_poller(self) -> zmq.Poller:
        """Return a poller of all sockets; each served stream has one."""
        poller = zmq.Poller()
        poller.register(self.worker.stop_fd, zmq.POLLIN)
        if self.snapshots is not None:
            poller.register(self.snapshots.ready_fd, zmq.POLLIN)
        for socket in (*self.frames.sockets(), self.events.socket, self.requests.socket, self.feed.socket):
            poller.register(socket, zmq.POLLIN)
        return poller

    def poll_once(self) -> None:
        """Fetch frames for due tasks, admit waiting jobs, let the engine make one step, publish the results."""
        self.worker.heartbeat.beat()
        self.fetcher.refresh_wait(self.requests.receive(_now()), _now())
        if self.handover.advance(_now()):
            self.poller = self.make_poller()
            self.changes.keep(self.policy.schedules.keys())
            if self.policy.stretched:
                self.stretch_reports.on_change()
        self.fetcher.fetch(self.room(), _now())
        self.poller.poll(math.ceil(self.sleep_time() * 1000))
        self.outbox.send_ready(SNAPSHOT_SHARE * self.step_s)
        self.fetcher.receive(_now(), self.step_s)
        self.publisher.receive_acks()
        self.feed.greet_subscribers()
        if not self.fetcher.batch_wait(_now()):
            for result in self.step(self.select_jobs()):
                self.publisher.publish(result)
            for stream, name in self.changes.take_unconfirmed():
                self.policy.run_again(stream, name, _now())
                self.fetcher.refresh_wait({stream} & self.policy.schedules.keys(), _now())
            self.publisher.publish_warnings(self.engine.warnings)
            if self.policy.adapt(_now()):
                self.stretch_reports.on_change()
            if self.stretch_reports.take(time.monotonic()):
                self.publisher.publish_stretch(self.policy.stretches())
        if not self.in_flight.count(JobState.FETCHING, JobState.WAITING, JobState.RUNNING):
            self.canary.add_if_due()
        self.in_flight.save()

    def room(self) -> int:
        """Return how many jobs to fetch frames for: none while emit does not ack."""
        pending = self.in_flight.count(JobState.FETCHING, JobState.WAITING)
        # Follow-ups take the room that is left.
        pending -= follow_ups_of(self.in_flight.jobs(JobState.WAITING))
        return 0 if self.events.window_full else self.engine.free() - pending

    def sleep_time(self) -> float:
        """Return the seconds to sleep if nothing arrives."""
        now = _now()
        if wait := self.fetcher.batch_wait(now):
            return wait
        if self.in_flight.count(JobState.WAITING, JobState.RUNNING):
            return 0.0
        return min(MAX_SLEEP_S, self.policy.wait(now))

    def select_jobs(self) -> list[Job]:
        """Return the most urgent waiting jobs that the engine has room for; publish the outcome of jobs that never run.

        Suspects of the quarantine run alone.
        """
        now, quarantine, runnable = time.monotonic(), self.in_flight.quarantine, list[Job]()
        for job in most_urgent_first(self.in_flight.jobs(JobState.WAITING)):
            if outcome := self.outcome_without_run(job, now):
                self.publisher.publish(outcome)
            else:
                runnable.append(job)
        running = [quarantine.as_suspect(job) for job in self.in_flight.jobs(JobState.RUNNING)]
        admitted = quarantine.may_run([quarantine.as_suspect(job) for job in runnable], running)
        return [job for job, may_run in zip(runnable, admitted, strict=True) if may_run][: self.engine.free()]

    def outcome_without_run(self, job: Job, now: float) -> Result | None:
        """Return the outcome of a job that needs no run or must not run; None for all others."""
        if job.due.unchanged_since is not None:
            return Result(job, "unchanged")
        if job.due.origin == "follow_up" and now > job.due.deadline:
            return Result(job, "stale", error="the task before it was due again")
        age, max_age = now - job.frame.captured_mono, job.due.task.max_age
        if max_age is not None and age > max_age:
            return Result(job, "stale", error=f"the frame was {age:.2f} s old, `max_age` is {max_age:g} s")
        if self.in_flight.quarantine.is_blocked(self.in_flight.quarantine.as_suspect(job), now):
            return Result(job, "error", error="quarantined: the task has ended the inference process before")
        return None

    def step(self, jobs: list[Job]) -> list[Result]:
        """Let the engine make one step, with `jobs` added to those it has, within the time it may take."""
        self.in_flight.start(jobs)
        running = self.in_flight.jobs(JobState.RUNNING)
        if not running:
            return []
        started = time.monotonic()
        self.worker.heartbeat.beat("batch", self.step_timeout.seconds(running))
        if jobs:
            self.engine.admit([self.in_flight.crop(job) for job in jobs])
        results = [self.in_flight.uncrop(check_numbers(result)) for result in self.engine.step()]
        took = self.step_s = time.monotonic() - started
        self.worker.heartbeat.beat()
        self.step_timeout.observe(running, [result.job for result in results], took)
        self.policy.overload.record_busy(took)
        for result in results:
            self.in_flight.finish_run(result.job)
            if result.job.due.origin != "canary":
                self.policy.record_job(result.job.due, result.device_seconds)
            task = result.job.due.task
            if result.outcome in ("ok", "empty"):
                self.speed.record(task.params.prompts, result.device_seconds)
        if len(self.worker.assignment.inference) > 1 and (speed := self.speed.take(time.monotonic())):
            self.worker.report(ReportKind.SPEED, speed=speed)
        return results

    def report_crash(self) -> None:
        """Publish the outcomes of the jobs that the previous process left; return once emit has them."""
        self.in_flight.save()
        self.publisher.publish_recovery()
        while self.events.unacked and not self.worker.stopping:
            self.await_acks()
        self.in_flight.save()

    def drain(self) -> None:
        """Finish the jobs in the engine, wait until emit has acked their events, and settle all frames."""
        until = time.monotonic() + DRAIN_S
        while self.in_flight.count(JobState.RUNNING) and time.monotonic() < until:
            for result in self.step([]):
                self.publisher.publish(result)
        self.publisher.discard_waiting("the agent stopped")  # now: the last answers have added follow-ups
        while (self.events.unacked or not self.outbox.is_empty) and time.monotonic() < until:
            self.await_acks()
        self.in_flight.save()

    def await_acks(self) -> None:
        """Handle the acks that arrive within 20 ms."""
        self.worker.heartbeat.beat()
        self.events.socket.poll(20)
        self.outbox.send_ready()
        self.publisher.receive_acks()
