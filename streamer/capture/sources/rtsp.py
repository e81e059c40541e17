"""A network camera over RTSP."""

from __future__ import annotations

from typing import Annotated, Literal

from streamer.capture.sources._fields import Decode, HwAccel
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Settings
from streamer.types import Pace, Source


class Rtsp(Settings):
    """A network camera over RTSP."""

    kind: Literal["rtsp"] = "rtsp"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`, with user and password if needed. They never appear in logs or events."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of the video. `tcp` loses no packets; `udp` is for cameras without TCP."""
    decode: Decode = "auto"
    """`auto`: key frames only, while no task, motion gate or view needs more. `all`: every frame."""
    hwaccel: HwAccel = "none"
    """Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""

    @property
    def pace(self) -> Pace:
        return "live"

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._av import AvSource

        options = {
            "rtsp_transport": self.transport,
            "protocol_whitelist": "rtsp,rtp,udp,tcp,tls",
            "allowed_media_types": "video",
            # The decoder finds parameters and frame rate. Probing for them would delay the first frame by 1 s.
            "probesize": "32",
            "fpsprobesize": "0",
        }
        return AvSource(
            self.url.reveal(),
            options,
            read_limit=read_limit,
            hwaccel=self.hwaccel,
            may_skip_frames=self.decode == "auto",
        )
