"""A camera that sends Motion JPEG over HTTP: `python -m tests.support.jpeg_camera PORT FPS FILE`.

It is a process of its own, so that it takes no time from the program under test, and sends pictures that are encoded
already, from memory. FILE has JPEG pictures one after the other.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Self

from streamer.capture.sources._jpeg_splitter import JpegSplitter
from tests.support.ports import free_port

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


async def _serve(port: int, fps: float, pictures: list[bytes]) -> None:
    parts = [b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + picture for picture in pictures]
    loop = asyncio.get_running_loop()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the pictures to one client, each at its time, until it leaves."""
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_HEAD)
            due = loop.time()
            for part in cycle(parts):
                writer.write(part)
                await writer.drain()
                due += 1 / fps
                await asyncio.sleep(max(0.0, due - loop.time()))
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", port) as server:
        print("ready", flush=True)
        await server.serve_forever()


class JpegCamera:
    """The camera as a process; each connection gets pictures of its own. A context manager."""

    def __init__(self, pictures: Path, fps: float) -> None:
        self._port = free_port()
        self._arguments = [str(self._port), str(fps), str(pictures)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/video"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.jpeg_camera", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the camera did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    _port, _fps, _file = sys.argv[1:]
    asyncio.run(_serve(int(_port), float(_fps), JpegSplitter().feed(Path(_file).read_bytes())))
