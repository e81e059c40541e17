"""Publishes the outcome of each job and settles its frame once emit has acked the events of all jobs of the frame.

Outcomes of scheduled jobs become events, for emit and for the live result feed, but for most answers without changes of
a task with `changes`. The answer to a one-shot request goes
to its caller only. A canary becomes a status event.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamer.bus.event_channel import EventClient
from streamer.bus.result_feed import ResultPublisher
from streamer.core.logs import RareLog
from streamer.events.build import canary_event, degraded_event, result_event, result_id, schedule_event
from streamer.events.result_data import EventChanges, EventFollowUps
from streamer.inference.canary import Canary
from streamer.inference.content_changes import ContentChanges
from streamer.inference.follow_ups import FollowUps
from streamer.inference.in_flight import InFlight, JobState
from streamer.inference.outbox import Outbox
from streamer.inference.overload import Overload
from streamer.inference.requests import RequestHandler
from streamer.inference.snapshot_choice import SnapshotChoice
from streamer.inference.tracking import ObjectTracker
from streamer.types import Priority, Result

if TYPE_CHECKING:
    from streamer.inference.collector import Collector

log = logging.getLogger(__name__)
_failed_canaries = RareLog(log, "canary failed %s, the model gives no answers: %s", logging.ERROR, noun="time")


@dataclass(frozen=True, slots=True)
class OutcomePublisher:
    agent: str
    model: str
    """Their names as they stand in events."""
    in_flight: InFlight
    events: EventClient
    feed: ResultPublisher
    requests: RequestHandler
    canary: Canary
    tracker: ObjectTracker
    follow_ups: FollowUps
    changes: ContentChanges
    overload: Overload
    outbox: Outbox
    snapshots: SnapshotChoice
    collector: Collector | None
    worker: str | None
    """Name of this process as it stands in events, where there are several."""
    leases: Mapping[str, int | None]
    """`lease` of the events by stream."""
    _warned: set[str] = field(default_factory=set)
    """Warnings of the engine that were published."""

    def publish(self, result: Result) -> None:
        """Send an outcome to its receiver."""
        match result.job.due.origin:
            case "schedule" | "follow_up":
                self.canary.on_outcome(result.outcome)
                self.requests.counts.add(result.job.due.stream, result.job.due.task.name, result.outcome)
                self._publish_scheduled(result)
                return
            case "request":
                self.requests.reply(result, self.model)
            case "canary" if result.outcome in ("ok", "empty"):
                self.events.send(canary_event(self.agent, result.inference_s), None)
            case "canary":
                _failed_canaries.add(result.error)
        self.in_flight.finish(result.job, result.outcome)

    def discard_waiting(self, reason: str, stream: str | None = None) -> None:
        """Discard the waiting jobs of a stream that is given up, or all, because the process stops.

        Follow-ups get an event with `reason`: that of their parent promises it.
        """
        for job in self.in_flight.jobs(JobState.WAITING):
            if job.due.parent is not None and stream in (None, job.due.stream):
                self.publish(Result(job, "dropped", error=reason))
        self.in_flight.discard_waiting(stream)

    def publish_recovery(self) -> None:
        """Send the outcomes of the jobs that a dead process left."""
        for result in self.in_flight.lost:
            self._send_event(result, live=False)

    def publish_warnings(self, warnings: Iterable[str]) -> None:
        """Report what the engine could not follow, each warning once; it has logged them."""
        for warning in warnings:
            if warning in self._warned:
                continue
            self._warned.add(warning)
            self.events.send(degraded_event(self.agent, warning), None)

    def publish_stretch(self, stretch: Mapping[str, Mapping[Priority, float]]) -> None:
        """Report the factors by which overload stretches intervals, by stream and priority, and of follow-ups."""
        share = self.overload.follow_up_share
        log.info("overload: intervals stretched by %s, %.0f %% of follow-ups", stretch or "nothing", 100 * share)
        reason = None
        if stretch:
            reason = "the model cannot do everything at the configured intervals"
        elif share < 1:
            reason = "the model cannot do all follow-ups"
        self.events.send(schedule_event(self.agent, stretch, reason, share, self.worker), None)

    def receive_acks(self) -> None:
        """Remove the jobs whose events are acked, and send again what is not acked in time."""
        self.in_flight.on_acked(self.events.receive())
        self.events.resend()

    def _publish_scheduled(self, result: Result) -> None:
        """Send the outcome of a scheduled task or a follow-up; add the follow-ups of its answer."""
        if result.job.due.parent is None:
            result = self.tracker.assign_ids(result)
        else:
            self.follow_ups.on_outcome(result)
        if self.collector is not None:
            self.collector.add(result)
        sent, changes = self.changes.check(result)
        if sent is None:
            self.in_flight.finish(result.job, "unchanged")
            return
        result, due, frame = sent, sent.job.due, sent.job.frame
        event = result_id(self.agent, due.stream, frame.epoch, frame.seq, due.key)
        jobs, counts = self.follow_ups.plan(result, event, self.overload.follow_up_share)
        if jobs:
            # The event promises them: after a crash each must get an outcome.
            self.in_flight.add_follow_ups(jobs)
            self.in_flight.save()
        self._send_event(result, counts, changes)

    def _send_event(
        self,
        result: Result,
        follow_ups: EventFollowUps | None = None,
        changes: EventChanges | None = None,
        live: bool = True,
    ) -> None:
        lease = self.leases.get(result.job.due.stream)
        event = result_event(self.agent, result, self.model, follow_ups, changes, lease)
        self.in_flight.add_event(result.job, result.outcome, event.id)
        if live:
            self.feed.publish(event)
        with_snapshot = live and self.snapshots.wants(result, self.requests.streams)
        self.outbox.send(event, result.job.frame, with_snapshot)
