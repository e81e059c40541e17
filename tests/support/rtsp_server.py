"""RTSP server program (gst-rtsp-server, H.264): serves a clip's access units in a loop, with increasing timestamps.

Started by `tests/support/rtsp.py` in the system Python, because `gi` is a Debian package. Lines on standard input pause
and resume the video.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
from pathlib import Path
from typing import Any


def _read_units(path: str) -> list[bytes]:
    data, units, at = Path(path).read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        units.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return units


class _Camera:
    """Pushes the units into one media, starting with the first, a key frame."""

    def __init__(self, gst: Any, glib: Any, units: list[bytes], fps: float) -> None:
        self.gst, self.units, self.fps = gst, units, fps
        self.paused = False
        self.source: Any = None
        self.count = 0
        glib.timeout_add(max(1, round(1000 / fps)), self.push)

    def configure(self, _factory: Any, media: Any) -> None:
        self.source, self.count = media.get_element().get_child_by_name("source"), 0
        media.connect("unprepared", self.unprepared, self.source)

    def unprepared(self, _media: Any, source: Any) -> None:
        if self.source is source:
            self.source = None

    def push(self) -> bool:
        if self.source is not None and not self.paused:
            buffer = self.gst.Buffer.new_wrapped(self.units[self.count % len(self.units)])
            buffer.pts = buffer.dts = int(self.count / self.fps * self.gst.SECOND)
            self.source.emit("push-buffer", buffer)
            self.count += 1
        return True


def _restrict(rtsp: Any, methods: Any, server: Any, factory: Any, args: argparse.Namespace) -> None:
    auth, token = rtsp.RTSPAuth(), rtsp.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if args.auth == "digest":
        auth.set_supported_methods(methods.DIGEST)
        auth.add_digest(args.user, args.password, token)
    else:
        auth.add_basic(rtsp.RTSPAuth.make_basic(args.user, args.password), token)
    server.set_auth(auth)
    permissions = rtsp.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)


def _serve() -> None:
    import gi

    for name in ("Gst", "GstRtsp", "GstRtspServer"):
        gi.require_version(name, "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

    parser = argparse.ArgumentParser()
    for option in ("port", "user", "password", "auth"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--fps", type=float)
    parser.add_argument("units")
    args = parser.parse_args()
    Gst.init(None)
    camera = _Camera(Gst, GLib, _read_units(args.units), args.fps)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( appsrc name=source is-live=true format=time max-buffers=50 leaky-type=downstream"
        " caps=video/x-h264,stream-format=byte-stream,alignment=au"
        " ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", camera.configure)
    server = GstRtspServer.RTSPServer()
    server.get_thread_pool().set_max_threads(-1)
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    if args.user:
        _restrict(GstRtspServer, GstRtsp.RTSPAuthMethod, server, factory, args)
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)

    def command(_channel: Any, _condition: Any) -> bool:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the test has ended
        camera.paused = line == "pause\n"
        return True

    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_IN | GLib.IO_HUP, command)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve()
