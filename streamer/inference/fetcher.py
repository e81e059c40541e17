"""Fetches frames for due tasks and makes their jobs.

A frame is fetched only when the engine has room for it. Capture replies to a fetch at once. Where no requested frame
exists yet, it is asked to report the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamer.bus.frame_client import FrameClient, FrameRequest, NoBuffer, Reply
from streamer.inference.in_flight import InFlight, JobState
from streamer.inference.policy import Policy
from streamer.inference.schedule import Schedule
from streamer.inference.triggers import Now
from streamer.types import Frame, Job

BATCH_WAIT_S = 0.05
"""Longest wait for fetched frames before the engine runs with the jobs it has."""
WAIT_S = 1.0
"""Longest time for which capture may hold a request for a frame that does not exist yet."""
MIN_WAIT_S = 0.01


@dataclass(slots=True)
class _Stream:
    schedule: Schedule
    request: int | None = None
    """Id of the request without a reply."""
    unserved: set[str] = field(default_factory=set)
    """Tasks that were chosen since the last release and did not get a frame."""


class FrameFetcher:
    """Not thread-safe."""

    def __init__(self, frames: FrameClient, policy: Policy, in_flight: InFlight) -> None:
        self._frames, self._policy, self._in_flight = frames, policy, in_flight
        self._streams = {name: _Stream(schedule) for name, schedule in policy.schedules.items()}
        self._batch_deadline = -math.inf
        self._awaited: dict[str, float] = {}
        """Streams of other hosts that a batch waits for, each with the monotonic second until which it does."""
        for name in self._streams:
            frames.connect(name)

    def add(self, name: str) -> None:
        """Fetch frames of this stream too, which the policy has."""
        self._streams[name] = _Stream(self._policy.schedules[name])
        self._frames.connect(name)

    def remove(self, name: str, is_final: bool = False) -> bool:
        """Give up a stream that the policy has no more and that has no jobs. False if capture does not confirm it.

        `is_final`: it need not confirm it, because no other process will serve the stream.
        """
        self._awaited.pop(name, None)
        if self._frames.disconnect(name, is_final):
            del self._streams[name]
            return True
        self._streams[name].request = None
        return False

    def fetch(self, room: int, now: Now) -> None:
        """Request frames for the most urgent tasks, at most `room` of them."""
        for name, tasks in self._policy.choose(room, now).items():
            if self._fetch(name, tasks, now):
                self._in_flight.start_fetch(name, tasks)
                self._batch_deadline = now.mono + BATCH_WAIT_S
            else:
                self._policy.release(name, now, tasks)

    def receive(self, now: Now, step_s: float) -> None:
        """Handle the replies of the capture processes: frames become waiting jobs.

        `step_s`: duration of the engine's last step. A batch waits no longer for a frame of another host.
        """
        for reply in self._frames.receive():
            self._on_reply(reply, now, min(step_s, BATCH_WAIT_S))

    def refresh_wait(self, names: Iterable[str], now: Now) -> None:
        """The tasks of these streams have changed: so may the frame that capture is asked to report."""
        for name in names:
            if self._streams[name].request is not None and not self._in_flight.is_fetching(name):
                self._wait(name, now)

    def batch_wait(self, now: Now) -> float:
        """Seconds for which the next batch should still wait for its frames; 0 while the engine is running one."""
        if self._in_flight.count(JobState.RUNNING):
            return 0.0
        deadlines = [self._batch_deadline] if self._in_flight.count(JobState.FETCHING) else []
        if self._in_flight.count(JobState.WAITING):
            deadlines += self._awaited.values()
        return max(0.0, max(deadlines, default=-math.inf) - now.mono)

    def _fetch(self, name: str, tasks: set[str], now: Now) -> bool:
        stream = self._streams[name]
        request = stream.schedule.next_request(now, tasks)
        if request is None:
            return False
        try:
            stream.request = self._frames.fetch(name, request, stream.schedule.next_need(now, tasks))
        except NoBuffer:
            return False
        stream.schedule.mark_requested(request, now)
        return True

    def _on_reply(self, reply: Reply, now: Now, await_s: float) -> None:
        stream = self._streams[reply.stream]
        if reply.request != stream.request:
            return  # a newer request has replaced it
        stream.request = None
        names = self._in_flight.end_fetch(reply.stream)
        if reply.frame is not None:
            self._awaited.pop(reply.stream, None)
            names -= self._open_frame(stream.schedule, reply.frame, names, now)
        elif names:
            stream.schedule.skip_stale(reply.newest)
        stream.unserved |= names
        if reply.ended or reply.stream not in self._policy.schedules:
            self._policy.remove(reply.stream)
        elif reply.ready or reply.frame is not None or (request := self._wait(reply.stream, now)) is None:
            self._policy.release(reply.stream, now, stream.unserved)
            stream.unserved = set()
        elif names and stream.schedule.takes_turns and not request.on_trigger:
            self._awaited[reply.stream] = now.mono + await_s

    def _open_frame(self, schedule: Schedule, frame: Frame, names: set[str], now: Now) -> set[str]:
        """Make the jobs of a frame; return the names of their tasks."""
        jobs = [Job(due, frame) for due in schedule.pop_due(frame, now, names)]
        if jobs:
            self._in_flight.open_frame(frame, jobs)
        else:
            self._frames.settle(frame, "stale")
        return {job.due.task.name for job in jobs}

    def _wait(self, name: str, now: Now) -> FrameRequest | None:
        """Ask capture to report the next requested frame, and return the request; None when no task needs one."""
        stream = self._streams[name]
        stream.schedule.advance(now)
        request = stream.schedule.next_request(now)
        if request is None:
            return None
        # Not longer than until the next tick, which may need another frame.
        timeout = min(WAIT_S, max(stream.schedule.wait(now), MIN_WAIT_S))
        stream.request = self._frames.wait(name, request, timeout)
        stream.schedule.mark_requested(request, now)
        return request
