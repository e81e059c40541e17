"""Publishes the outcome of each job and settles its frame once emit has acked the events of all jobs of the frame.

Outcomes of scheduled jobs become events, for emit and for the live result feed. The answer to a one-shot request goes
to its caller only. A canary becomes a status event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from streamer.bus.event_channel import EventClient
from streamer.bus.frame_client import FrameClient
from streamer.bus.result_feed import ResultPublisher
from streamer.events.build import canary_event, result_event, schedule_event, task_event
from streamer.inference.canary import NO_EPOCH, Canary
from streamer.inference.in_flight import ClosedFrame, InFlight
from streamer.inference.journal import CrashRecovery
from streamer.inference.requests import RequestHandler
from streamer.inference.tracking import ObjectTracker
from streamer.types import Priority, Result

log = logging.getLogger(__name__)


class OutcomePublisher:
    def __init__(
        self,
        agent: str,
        model: str,
        in_flight: InFlight,
        frames: FrameClient,
        events: EventClient,
        feed: ResultPublisher,
        requests: RequestHandler,
        canary: Canary,
        tracker: ObjectTracker,
    ) -> None:
        """`agent` and `model`: their names as they stand in events."""
        self._agent, self._model = agent, model
        self._in_flight, self._frames, self._events, self._feed = in_flight, frames, events, feed
        self._requests, self._canary, self._tracker = requests, canary, tracker

    def publish(self, result: Result) -> None:
        """Send an outcome to its receiver."""
        match result.job.due.origin:
            case "schedule":
                self._canary.on_outcome(result.outcome)
                self._send_event(self._tracker.assign_ids(result))
                return
            case "request":
                self._requests.reply(result, self._model)
            case "canary":
                self._publish_canary(result)
        self._settle(self._in_flight.finish(result.job, result.outcome))

    def publish_recovery(self, recovery: CrashRecovery) -> None:
        """Send the outcomes of the jobs that a dead process left, and what killed it."""
        for result in recovery.lost:
            self._send_event(result, live=False)
        if (verdict := recovery.verdict) is not None:
            stream, name, _ = verdict.suspect
            log.error("%s: %s", stream, verdict.describe())
            event = task_event(self._agent, stream, name, "quarantined", verdict.describe(), verdict.pause)
            self._events.send(event, None)

    def publish_stretch(self, stretch: Mapping[str, Mapping[Priority, float]]) -> None:
        """Report the factors by which overload stretches intervals, by stream and priority."""
        log.info("overload: intervals stretched by %s", stretch or "nothing")
        reason = "the model cannot do everything at the configured intervals" if stretch else None
        self._events.send(schedule_event(self._agent, stretch, reason), None)

    def receive_acks(self) -> None:
        """Settle the frames whose last event is acked, and send again what is not acked in time."""
        self._settle(self._in_flight.on_acked(self._events.receive()))
        self._events.resend()

    def await_acks(self, until: float, while_waiting: Callable[[], bool]) -> None:
        """Wait until all events are acked or the monotonic second `until`, as long as `while_waiting` returns True."""
        while self._events.unacked and time.monotonic() < until and while_waiting():
            self._events.socket.poll(20)
            self.receive_acks()

    def discard_waiting(self) -> None:
        """Drop the waiting jobs because the process stops."""
        self._settle(self._in_flight.discard_waiting())

    def _send_event(self, result: Result, live: bool = True) -> None:
        event = result_event(self._agent, result, self._model)
        self._in_flight.add_event(result.job, result.outcome, event.id)
        if live:
            self._feed.publish(event)
        self._events.send(event, result.job.frame.captured_mono)

    def _publish_canary(self, result: Result) -> None:
        if result.outcome in ("ok", "empty"):
            self._events.send(canary_event(self._agent, result.inference_s), None)
        else:
            log.error("canary failed, the model gives no answers: %s", result.error)

    def _settle(self, closed: Iterable[ClosedFrame]) -> None:
        for frame, outcome in closed:
            if frame.epoch != NO_EPOCH:
                self._frames.settle(frame, outcome)
