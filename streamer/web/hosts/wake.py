"""Wait for ZeroMQ sockets that are read without blocking, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import zmq


class Wake:
    """An event that is set when a socket may be readable. Set it after each send, which can use up that sign."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.set = self._event.set

    async def wait(self, seconds: float) -> None:
        """Return when it is set, or after `seconds`; 0 only lets other tasks run. Then read all sockets empty."""
        if seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for would lose a cancellation now and then
                    await self._event.wait()
        else:
            await asyncio.sleep(0)
        self._event.clear()

    @contextmanager
    def watching(self, sockets: Sequence[zmq.Socket[bytes]]) -> Iterator[None]:
        """Watch these sockets."""
        loop, descriptors = asyncio.get_running_loop(), [int(socket.get(zmq.FD)) for socket in sockets]
        for descriptor in descriptors:
            loop.add_reader(descriptor, self.set)
        try:
            yield
        finally:
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
