"""The streams of the config that this agent runs. The command `streams.run` changes them while it runs.

`WantedStreams` holds what the last command says, `StreamProcesses` makes it true. A stream is added with the processes
that work for it alone, and offered to inference. A stream is given up in this order: inference finishes its jobs and
settles its frames, then its capture process publishes `stream.moved` with the final counts and ends. A stream that is
wanted again meanwhile starts afresh after that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from streamer.bus.frame_client import frames_socket
from streamer.config.model import Config
from streamer.events.build import status_event
from streamer.processes.assignment import Role
from streamer.processes.child import Child
from streamer.processes.control import Control
from streamer.processes.process_table import ProcessTable
from streamer.video.outputs.base import outputs_by_view
from streamer.video.outputs.rtsp_push import RtspPush

log = logging.getLogger(__name__)

GIVE_UP_S = 5.0
"""Longest wait for inference before capture is stopped all the same: its frames in flight are dropped then."""


def children_of(config: Config, streams: Mapping[str, int | None]) -> Iterator[Child]:
    """Yield the children that work for one of these streams alone. `streams`: as of `WantedStreams.leases`."""
    yield from (
        Child(Role.CAPTURE, name, stream=name, lease=streams[name]) for name in config.streams if name in streams
    )
    views = (view for view in outputs_by_view(config.outputs) if view.stream in streams)
    yield from (Child(Role.VIEW, str(view), stream=view.stream) for view in views)
    pushes = (output for output in config.outputs if isinstance(output, RtspPush) and output.stream in streams)
    yield from (Child(Role.PUSH, output.label, stream=output.stream) for output in pushes)


class StreamProcesses:
    """Starts and stops the processes of streams."""

    def __init__(self, control: Control, table: ProcessTable) -> None:
        """The children of the streams that are wanted now are in `table` already."""
        self._control, self._table = control, table
        self._wanted = control.wanted
        self._wanted.present.update(self._wanted.leases)
        self._leaving: dict[str, float] = {}
        """Monotonic second at which a stream is taken from inference."""

    def reconcile(self) -> None:
        """Start and stop what differs from the wanted streams, as far as that is possible now."""
        wanted, present, now = self._wanted.leases, self._wanted.present, time.monotonic()
        for stream in [stream for stream in present if stream not in wanted and stream not in self._leaving]:
            self._leaving[stream] = now + GIVE_UP_S
            self._control.router.remove(stream)
            self._retire(stream, now, Role.VIEW, Role.PUSH)
        for stream, until in list(self._leaving.items()):
            is_served = self._control.router.is_served(stream)
            if not is_served or now > until:
                self._retire(stream, now, Role.CAPTURE)
            if not is_served and not any(child.is_running for child in self._children(stream)):
                self._forget(stream)
        for stream in [stream for stream in wanted if stream not in present]:
            self._table.add(children_of(self._control.config, {stream: wanted[stream]}))
            self._control.router.add(stream, self._control.config.streams[stream], wanted[stream])
            present.add(stream)

    def _children(self, stream: str) -> list[Child]:
        return [child for child in self._table.children if child.stream == stream]

    def _retire(self, stream: str, now: float, *roles: Role) -> None:
        for child in self._children(stream):
            if child.role in roles and not child.is_retired:
                child.retire(self._wanted.reason, now)

    def _forget(self, stream: str) -> None:
        """Remove the rows of a stream that is given up. A capture that could not say so itself is spoken for."""
        for child in self._children(stream):
            self._table.remove(child)
            if child.role is not Role.CAPTURE:
                continue
            frames_socket(self._control.runtime, stream).unlink(missing_ok=True)  # a killed process leaves it behind
            if child.exit_code != 0:
                agent = self._control.config.name
                reason, lease = self._wanted.reason, child.lease
                self._control.send_event(status_event(agent, stream, "moved", reason, lease=lease))
        del self._leaving[stream]
        self._wanted.present.discard(stream)
        log.info("stream %s given up: %s", stream, self._wanted.reason)
