"""A camera over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from streamer.capture.sources._fields import Decode, HwAccel
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Settings
from streamer.types import Pace, Source


class Http(Settings):
    """A camera over HTTP: MJPEG, MPEG-TS or HLS. Always live: it is reopened when it ends."""

    kind: Literal["http"] = "http"
    url: Annotated[Url, require_scheme("http", "https")]
    """`http://` or `https://`, with user and password if needed. They never appear in logs or events."""
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
            "protocol_whitelist": "http,https,tcp,tls,crypto,hls",
            "analyzeduration": "1000000",
            "fpsprobesize": "0",
        }
        return AvSource(
            self.url.reveal(),
            options,
            read_limit=read_limit,
            hwaccel=self.hwaccel,
            may_skip_frames=self.decode == "auto",
        )
