"""A live camera that sends MPEG-TS over HTTP, each frame at its time."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av

from tests.support.clips import numbered

_WIDTH, _HEIGHT = 256, 144
_CLOCK_HZ = 90_000


class _Bytes(io.RawIOBase):
    """Collects the bytes written since the last `take`."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._kept += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._kept)
        self._kept.clear()
        return taken


def mpeg_ts(pictures: int, fps: int, begin: float = 0.0, key_frame_every: int = 0, b_frames: int = 0) -> list[bytes]:
    """Return the bytes of each H.264 frame in decoding order; media time starts at second `begin`.

    `key_frame_every`: frames from one key frame to the next, by default one second of them.
    """
    out = _Bytes()
    container = av.open(out, "w", format="mpegts", options={"flush_packets": "1"})
    latency = {"preset": "veryfast", "x264-params": f"scenecut=0:b-adapt=0:bframes={b_frames}"}
    options = latency if b_frames else {"tune": "zerolatency", "preset": "ultrafast"}
    stream = container.add_stream("libx264", rate=fps, options={**options, "g": str(key_frame_every or fps)})
    stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _CLOCK_HZ)
    parts = []
    for number in range(pictures):
        frame = av.VideoFrame.from_ndarray(numbered(number, _WIDTH, _HEIGHT), format="bgr24")
        frame.time_base, frame.pts = Fraction(1, _CLOCK_HZ), round((begin + number / fps) * _CLOCK_HZ)
        for packet in stream.encode(frame):
            container.mux(packet)
            parts.append(out.take())
    for packet in stream.encode(None):
        container.mux(packet)
        parts.append(out.take())
    return parts


@contextmanager
def ts_camera(parts: list[bytes], fps: int) -> Iterator[str]:
    """Run a camera that sends each client the parts from the first on, in real time. Yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            started = time.monotonic()
            for number, part in enumerate(parts):
                time.sleep(max(0.0, started + number / fps - time.monotonic()))
                try:
                    self.wfile.write(part)
                except OSError:  # the client is gone
                    return

        def log_message(self, *_: object) -> None:
            """Keep the server's log lines out of the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/video"
        finally:
            server.shutdown()
            thread.join()
