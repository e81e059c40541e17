"""RTSP server program: accepts RECORD at `/push` and relays the stream to players of `/play` (gst-rtsp-server).

It runs in the system's Python, because `gi` is a Debian package. `tests/support/rtsp.py` starts it.
"""

from __future__ import annotations

import os
import sys
from typing import Any


class _Relay:
    """Passes every recorded access unit to the played media."""

    def __init__(self, gst: Any) -> None:
        self.gst = gst
        self.source: Any = None

    def recording(self, _factory: Any, media: Any) -> None:
        sink = media.get_element().get_child_by_name("sink")
        sink.connect("new-sample", self.sample)

    def playing(self, _factory: Any, media: Any) -> None:
        self.source = media.get_element().get_child_by_name("source")
        media.connect("unprepared", self.unprepared, self.source)

    def unprepared(self, _media: Any, source: Any) -> None:
        if self.source is source:
            self.source = None

    def sample(self, sink: Any) -> Any:
        sample = sink.emit("pull-sample")
        if self.source is not None:
            buffer = sample.get_buffer().copy()
            buffer.pts = buffer.dts = self.gst.CLOCK_TIME_NONE  # the source sets new timestamps
            self.source.emit("push-buffer", buffer)
        return self.gst.FlowReturn.OK


def _serve(port: str) -> None:
    import gi

    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    relay = _Relay(Gst)
    server = GstRtspServer.RTSPServer()
    server.get_thread_pool().set_max_threads(-1)  # with one thread a waiting player blocks the recording
    server.set_address("127.0.0.1")
    server.set_service(port)
    push = GstRtspServer.RTSPMediaFactory()
    push.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    push.set_launch(
        "( rtph264depay name=depay0 ! h264parse config-interval=-1"
        " ! video/x-h264,stream-format=byte-stream,alignment=au"
        " ! appsink name=sink emit-signals=true sync=false max-buffers=100 drop=true )"
    )
    push.connect("media-configure", relay.recording)
    play = GstRtspServer.RTSPMediaFactory()
    play.set_launch(
        "( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=100 leaky-type=downstream"
        " caps=video/x-h264,stream-format=byte-stream,alignment=au"
        " ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
    )
    play.set_shared(True)
    play.connect("media-configure", relay.playing)
    mounts = server.get_mount_points()
    mounts.add_factory("/push", push)
    mounts.add_factory("/play", play)
    server.attach(None)

    def on_stdin(_channel: Any, _condition: Any) -> bool:
        if not sys.stdin.buffer.read(1):
            os._exit(0)  # the test process that started it is dead
        return True

    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_IN | GLib.IO_HUP, on_stdin)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve(sys.argv[1])
