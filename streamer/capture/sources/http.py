"""A camera that speaks HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from streamer.capture.sources._fields import Decode, HwAccel
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Settings
from streamer.types import Pace, Source


class Http(Settings):
    """A camera's stream over HTTP: MJPEG, MPEG-TS or HLS. Always taken as live; when it ends it is opened again."""

    kind: Literal["http"] = "http"
    url: Annotated[Url, require_scheme("http", "https")]
    """`http://` or `https://`; user and password stand in it and never reach a log or event."""
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
            "protocol_whitelist": "http,https,tcp,tls,crypto,hls",
            "analyzeduration": "1000000",
            "fpsprobesize": "0",
        }
        may_ease = self.decode == "auto"
        return AvSource(self.url.reveal(), options, read_limit=read_limit, hwaccel=self.hwaccel, may_ease=may_ease)
