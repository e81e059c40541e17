"""A camera over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from streamer.capture.sources._allowed import HTTP, Allowed
from streamer.capture.sources._fields import NetworkCamera
from streamer.core.redact import Url, require_scheme


class Http(NetworkCamera):
    """A camera over HTTP: MJPEG, MPEG-TS or HLS. Always live: it is reopened when it ends."""

    kind: Literal["http"] = "http"
    url: Annotated[Url, require_scheme("http", "https")]
    """`http://` or `https://`, with user and password if needed. They never appear in logs or events."""

    allowed: ClassVar[Allowed] = HTTP
    default_ports: ClassVar[Mapping[str, int]] = {"http": 80, "https": 443}

    def options(self) -> dict[str, str]:
        return {
            "protocol_whitelist": "http,https,tcp,tls,crypto,hls",
            "analyzeduration": "1000000",
            "fpsprobesize": "0",
        }
