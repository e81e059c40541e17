"""Real RTSP servers (gst-rtsp-server), each in its own process, which can be frozen, killed and restarted."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

PYTHON = "/usr/bin/python3"
"""System Python, which has `gi` (Debian packages python3-gi and gir1.2-gst-rtsp-server-1.0)."""
_HERE = Path(__file__).parent


class _Program:
    """A server process that prints `ready` when it serves. A context manager that kills it at the end."""

    def __init__(self, file: str, arguments: Sequence[str]) -> None:
        self._arguments = [str(_HERE / file), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the process and wait until it serves."""
        self._process = subprocess.Popen([PYTHON, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("no RTSP server: are python3-gi and gir1.2-gst-rtsp-server-1.0 installed?")
        return self

    def _send(self, line: bytes) -> None:
        """Write a line to its standard input."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, without any answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


class RtspServer(_Program):
    """Serves a clip in a loop at `fps`, with increasing timestamps, at `rtsp://127.0.0.1:{port}/cam`."""

    def __init__(
        self,
        clip: Path,
        fps: float = 25,
        port: int | None = None,
        user: str = "",
        password: str = "",
        digest: bool = False,
    ) -> None:
        self.port = port or free_port()
        units = clip.with_suffix(".units")
        options = [f"--fps={fps}", f"--port={self.port}", f"--user={user}", f"--password={password}"]
        super().__init__("rtsp_server.py", [*options, f"--auth={'digest' if digest else 'basic'}", str(units)])
        _write_units(clip, units)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def pause(self) -> None:
        """Stop sending video, keeping connections and RTCP alive."""
        self._send(b"pause\n")

    def resume(self) -> None:
        self._send(b"resume\n")


class RtspReceiver(_Program):
    """Receives a stream at `rtsp://127.0.0.1:{port}/push` and plays it at `/play`."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__("rtsp_receiver.py", [str(self.port)])

    @property
    def push_url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/push"

    @property
    def play_url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/play"


def _write_units(clip: Path, out: Path) -> None:
    """Write the clip's access units in Annex B, each after its length."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(str(clip)) as container, out.open("wb") as file:
        annex_b = BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])
        for packet in container.demux(video=0):
            for unit in annex_b.filter(packet) if packet.size else ():
                data = bytes(unit)
                file.write(struct.pack(">I", len(data)) + data)
