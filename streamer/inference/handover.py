"""Handover of streams between the inference processes of an agent, on request of the parent.

A process that releases a stream chooses nothing of it any more, finishes its jobs, and tells capture that it is gone.
Only then does the parent let another process serve the stream, so no frame has two owners. Schedule and quarantine go
with the stream. Tracks and drafts start afresh, as after a restart, and overload control is of the device. A stream
that the agent gives up leaves in the same way, without its waiting jobs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from streamer.bus.commands import Released, ReleaseStream, ServeStream
from streamer.bus.result_feed import ResultPublisher
from streamer.bus.rpc import Request
from streamer.inference.fetcher import FrameFetcher
from streamer.inference.in_flight import InFlight
from streamer.inference.policy import Policy
from streamer.inference.publisher import OutcomePublisher
from streamer.inference.requests import RequestHandler
from streamer.inference.schedule import Schedule, make_schedule
from streamer.inference.triggers import Now

RELEASE_S = 2.0
"""Seconds after which a stream stays here whose capture process has not answered a request for a frame; one that the
agent gives up leaves then."""


class _Leaving(NamedTuple):
    request: Request
    schedule: Schedule
    tasks: list[dict[str, Any]]
    """The tasks of the schedule as in the config. They may change before the stream has left."""
    until: float
    """Monotonic second."""
    is_final: bool
    """As of `ReleaseStream`."""


class Handover:
    """Takes and releases streams."""

    def __init__(
        self,
        requests: RequestHandler,
        policy: Policy,
        fetcher: FrameFetcher,
        in_flight: InFlight,
        publisher: OutcomePublisher,
        feed: ResultPublisher,
        leases: dict[str, int | None],
    ) -> None:
        """`leases`: of the streams that are served, as of `ServeStream`; kept up to date here."""
        self._requests, self._policy, self._fetcher = requests, policy, fetcher
        self._in_flight, self._publisher, self._feed, self._leases = in_flight, publisher, feed, leases
        self._leaving: dict[str, _Leaving] = {}

    def advance(self, now: Now) -> bool:
        """Handle the requests that have arrived, and finish what can be finished. Return whether streams changed."""
        requests = self._requests.take_handovers()
        for request, command in requests:
            match command:
                case ServeStream():
                    self._serve(command, now)
                    self._requests.reply_to(request, served=True)
                case ReleaseStream(stream=stream) if stream in self._policy.schedules:
                    self._release(request, command, now)
                case ReleaseStream(stream=stream):  # it has ended
                    self._reply(request, Released(released=True, quarantine=self._in_flight.give_stream(stream)))
        late = [stream for stream, leaving in self._leaving.items() if now.mono > leaving.until]
        for stream in [stream for stream in late if self._in_flight.is_fetching(stream)]:
            if self._leaving[stream].is_final:
                self._in_flight.end_fetch(stream)
            else:
                self._keep(stream, now)
        done = [stream for stream in self._leaving if not self._in_flight.has_jobs_of(stream)]
        for stream in done:
            self._finish(stream, now)
        return bool(requests or done or late)

    def _serve(self, command: ServeStream, now: Now) -> None:
        stream = command.stream
        if stream in self._policy.schedules or stream in self._leaving:
            return
        tasks = self._requests.raw_tasks(stream)
        start = now if command.since is None else Now(*command.since)
        schedule = make_schedule(self._requests.streams, stream, start)
        if command.schedule is not None and command.schedule.tasks == tasks:  # not changed meanwhile
            schedule.restore(command.schedule)
        self._in_flight.take_stream(command.quarantine)
        self._leases[stream] = command.lease
        self._policy.add(stream, schedule, now)
        self._fetcher.add(stream)
        self._feed.publish_tasks(stream, tasks)

    def _release(self, request: Request, command: ReleaseStream, now: Now) -> None:
        stream = command.stream
        schedule = self._policy.schedules[stream]
        for question in self._requests.fail_questions(stream):
            schedule.drop(question)
        self._policy.remove(stream)
        if command.is_final:
            self._publisher.discard_waiting("the agent gave up the stream", stream)
        tasks, until = self._requests.raw_tasks(stream), now.mono + RELEASE_S
        self._leaving[stream] = _Leaving(request, schedule, tasks, until, command.is_final)

    def _finish(self, stream: str, now: Now) -> None:
        if not self._fetcher.remove(stream, self._leaving[stream].is_final):
            self._keep(stream, now)
            return
        self._feed.forget(stream)
        self._leases.pop(stream, None)
        leaving, quarantine = self._leaving.pop(stream), self._in_flight.give_stream(stream)
        state = leaving.schedule.state(leaving.tasks)
        self._reply(leaving.request, Released(released=True, schedule=state, quarantine=quarantine))

    def _keep(self, stream: str, now: Now) -> None:
        """Serve the stream again, with its present tasks: its capture process does not answer."""
        leaving, tasks = self._leaving.pop(stream), self._requests.raw_tasks(stream)
        if leaving.tasks != tasks:
            leaving.schedule.replace(self._requests.streams[stream].active, now)
            self._feed.publish_tasks(stream, tasks)
        self._policy.add(stream, leaving.schedule, now, awaits_frame=self._in_flight.is_fetching(stream))
        self._reply(leaving.request, Released(released=False))

    def _reply(self, request: Request, answer: Released) -> None:
        self._requests.reply_to(request, **answer.model_dump())
