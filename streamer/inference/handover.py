"""Handover of streams between the inference processes of an agent, on request of the parent.

A process that releases a stream chooses nothing of it any more, finishes its jobs, and tells capture that it is gone.
Only then does the parent let another process serve the stream, so no frame has two owners. The next process starts the
stream's triggers and tracks afresh, as after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.bus.commands import ReleaseStream, ServeStream
from streamer.bus.result_feed import ResultPublisher
from streamer.bus.rpc import Request
from streamer.inference.fetcher import FrameFetcher
from streamer.inference.in_flight import InFlight
from streamer.inference.policy import Policy
from streamer.inference.requests import RequestHandler
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import Now


@dataclass(frozen=True, slots=True)
class _Leaving:
    request: Request
    schedule: Schedule


class Handover:
    """Takes and releases streams."""

    def __init__(
        self,
        requests: RequestHandler,
        policy: Policy,
        fetcher: FrameFetcher,
        in_flight: InFlight,
        feed: ResultPublisher,
    ) -> None:
        self._requests, self._policy, self._fetcher = requests, policy, fetcher
        self._in_flight, self._feed = in_flight, feed
        self._leaving: dict[str, _Leaving] = {}

    def advance(self, now: Now) -> bool:
        """Handle the requests that have arrived, and finish what can be finished. Return whether streams changed."""
        requests = self._requests.take_handovers()
        for request, command in requests:
            match command:
                case ServeStream(stream=stream):
                    self._serve(stream, now)
                    self._requests.reply_to(request, served=True)
                case ReleaseStream(stream=stream) if stream in self._policy.schedules:
                    self._leaving[stream] = _Leaving(request, self._policy.schedules[stream])
                    self._policy.remove(stream)
                    self._requests.fail_questions(stream)
                case ReleaseStream():
                    self._requests.reply_to(request, released=True)
        done = [stream for stream in self._leaving if not self._in_flight.has_jobs_of(stream)]
        for stream in done:
            self._finish(stream, now)
        return bool(requests or done)

    def _serve(self, stream: str, now: Now) -> None:
        if stream in self._policy.schedules or stream in self._leaving:
            return
        settings = self._requests.streams[stream]
        self._policy.add(stream, Schedule(stream, settings.active, settings.source.pace, now), now)
        self._fetcher.add(stream)
        self._feed.publish_tasks(stream, self._requests.raw_tasks(stream))

    def _finish(self, stream: str, now: Now) -> None:
        leaving = self._leaving.pop(stream)
        released = self._fetcher.remove(stream)
        if released:
            self._feed.forget(stream)
        else:
            self._policy.add(stream, leaving.schedule, now)
        self._requests.reply_to(leaving.request, released=released)
