"""A network camera over RTSP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from streamer.capture.sources._allowed import RTSP, Allowed
from streamer.capture.sources._fields import NetworkCamera
from streamer.core.redact import Url, require_scheme


class Rtsp(NetworkCamera):
    """A network camera over RTSP."""

    kind: Literal["rtsp"] = "rtsp"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`, with user and password if needed. They never appear in logs or events."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of the video. `tcp` loses no packets; `udp` is for cameras without TCP."""

    allowed: ClassVar[Allowed] = RTSP
    default_ports: ClassVar[Mapping[str, int]] = {"rtsp": 554, "rtsps": 322}

    def demuxer_options(self) -> dict[str, str]:
        return {
            "rtsp_transport": self.transport,
            "protocol_whitelist": "rtsp,rtp,udp,tcp,tls",
            "allowed_media_types": "video",
            # The decoder finds parameters and frame rate. Probing for them would delay the first frame by 1 s.
            "probesize": "32",
            "fpsprobesize": "0",
        }
