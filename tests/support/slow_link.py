"""A TCP proxy with delay, rate and losses: `python -m tests.support.slow_link PORT TARGET DELAY_MS MBIT LOST`.

It stands in for `tc netem` where the kernel has none. It is a process of its own, so that it takes no time from the
program under test. Each direction has its own line, which all connections share.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

CHUNK_BYTES = 16_384
REPEAT_S = 0.2
"""Time until a lost packet is sent again: the shortest one of Linux. All that follows waits for it."""
QUEUE_S = 0.1
"""Longest time for which data waits for the line, as in the queue of a router; then the sender is held up."""


class _Line:
    """One direction of the link."""

    def __init__(self, delay_s: float, bytes_per_s: float, lost: float) -> None:
        self._delay_s, self._bytes_per_s, self._lost = delay_s, bytes_per_s, lost
        self._random = random.Random(1)
        self._free_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until one side closes."""
        arrivals: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(self._deliver(arrivals, writer))
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK_BYTES):
            self._free_at = max(loop.time(), self._free_at) + len(data) / self._bytes_per_s
            repeat_s = REPEAT_S if self._random.random() < self._lost else 0.0
            arrivals.put_nowait((self._free_at + self._delay_s + repeat_s, data))
            await asyncio.sleep(max(0.0, self._free_at - loop.time() - QUEUE_S))
        arrivals.put_nowait((loop.time() + self._delay_s, b""))
        await delivering

    async def _deliver(self, arrivals: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            at, data = await arrivals.get()
            await asyncio.sleep(max(0.0, at - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()


async def _serve(port: int, target: int, delay_s: float, bytes_per_s: float, lost: float) -> None:
    there, back = _Line(delay_s, bytes_per_s, lost), _Line(delay_s, bytes_per_s, lost)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(there.carry(reader, far_writer), back.carry(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


class SlowLink:
    """The proxy as a process; `port` is its own one. A context manager."""

    def __init__(self, target: int, delay_ms: float, mbit: float, lost: float = 0.0) -> None:
        """`delay_ms`: of one direction. `lost`: share of the pieces of data that arrive only when they are repeated."""
        self.port = free_port()
        self._arguments = [str(self.port), str(target), str(delay_ms), str(mbit), str(lost)]

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.slow_link", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the slow link did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    _port, _target = int(sys.argv[1]), int(sys.argv[2])
    _delay_ms, _mbit, _lost = map(float, sys.argv[3:])
    asyncio.run(_serve(_port, _target, _delay_ms / 1000, _mbit * 125_000, _lost))
