"""A network camera."""

from __future__ import annotations

from typing import Annotated, Literal

from streamer.capture.sources._fields import Decode, HwAccel
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Settings
from streamer.types import Pace, Source


class Rtsp(Settings):
    """A network camera, over RTSP."""

    kind: Literal["rtsp"] = "rtsp"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`; user and password stand in it and never reach a log or event."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How the video travels. `tcp` loses nothing; `udp` is for cameras that know nothing else."""
    decode: Decode = "auto"
    """`auto`: key frames only, while no task, gate or view wants more; `all`: every picture, always."""
    hwaccel: HwAccel = "none"
    """What decodes: `none` (the processor), `auto` (a graphics card where one can), or a kind of one."""

    @property
    def pace(self) -> Pace:
        return "live"

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._av import AvSource

        options = {
            "rtsp_transport": self.transport,
            "protocol_whitelist": "rtsp,rtp,udp,tcp,tls",
            "allowed_media_types": "video",
            # No guessing of parameters and rates ahead: the decoder finds out, and the first picture comes 1 s earlier.
            "probesize": "32",
            "fpsprobesize": "0",
        }
        may_ease = self.decode == "auto"
        return AvSource(self.url.reveal(), options, read_limit=read_limit, hwaccel=self.hwaccel, may_ease=may_ease)
