"""Cameras over HTTP: streams, playlists and single pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from streamer.capture.interfaces import Source
from streamer.capture.sources._allowed import HTTP, Allowed
from streamer.capture.sources._fields import NetworkCamera, hardware_devices
from streamer.core.landlock import Rules
from streamer.core.redact import Url, require_scheme
from streamer.core.settings import Settings
from streamer.core.tls import Tls
from streamer.types import Pace

PORTS = {"http": 80, "https": 443}
"""Default port of each scheme."""
_OPTIONS = frozenset({
    "analyzeduration", "correct_ts_overflow", "err_detect", "fflags", "flv_full_metadata", "fpsprobesize", "framerate",
    "ignore_editlist", "max_delay", "merge_pmt_versions", "pixel_format", "probesize", "raw_packet_size", "resync_size",
    "scan_all_pmts", "skip_unknown_pmt", "video_size",
})  # fmt: skip
"""Options of FFmpeg's demuxers that open nothing and lift no limit."""

HttpUrl = Annotated[Url, require_scheme("http", "https")]
Redirects = Literal["same_host", "any"]
Option = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, (int, float)) else value),
    Field(pattern=r"^[\w.+:/-]{1,40}$", examples=["10"]),
]


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"`{name[:40]}` is not an option of the container: use {', '.join(sorted(_OPTIONS))}")
    return options


class Http(NetworkCamera):
    """A camera over HTTP: MJPEG, MPEG-TS, HLS or single pictures. Always live: it is reopened when it ends."""

    kind: Literal["http"] = "http"
    url: HttpUrl
    """`http://` or `https://`, with user and password if needed. They never appear in logs or events."""
    tls: Tls = Tls()
    """Checks of the certificate of an `https://` camera."""
    allow_redirects: Redirects = "same_host"
    """Addresses that redirects and playlists may refer to: those of the camera only, or `any`."""
    format: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$", examples=["mpegts"])] | None = None
    """FFmpeg's name of the container, such as `mpegts` or `h264`. Default: recognised by its content."""
    options: Annotated[dict[str, Option], AfterValidator(_check_options)] = Field({})
    """Options of FFmpeg for the container, such as `framerate: 10` for bare H.264."""

    modules: ClassVar[tuple[str, ...]] = ("streamer.capture.sources._http_source",)
    allowed: ClassVar[Allowed] = HTTP
    default_ports: ClassVar[Mapping[str, int]] = PORTS

    def demuxer_options(self) -> dict[str, str]:
        return {"analyzeduration": "1000000", "fpsprobesize": "0", **self.options}

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._http_source import open_stream

        return open_stream(self, read_limit)

    def needs(self) -> Rules:
        network = _needs_network(self)
        return Rules(read=network.read, devices=hardware_devices(self.hwaccel), connect=network.connect)


class Snapshot(Settings):
    """A camera that sends one JPEG picture for each request. It is asked at the shortest interval of the tasks."""

    pace: ClassVar[Pace] = "live"
    modules: ClassVar[tuple[str, ...]] = ("streamer.capture.sources._http_source",)
    kind: Literal["snapshot"] = "snapshot"
    url: HttpUrl
    """`http://` or `https://`, with user and password if needed. They never appear in logs or events."""
    tls: Tls = Tls()
    """Checks of the certificate of an `https://` camera."""
    allow_redirects: Redirects = "same_host"
    """Addresses that redirects may refer to: those of the camera only, or `any`."""

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._http_source import open_snapshots

        return open_snapshots(self, read_limit)

    def needs(self) -> Rules:
        """Return what a confined process needs to reach the camera."""
        return _needs_network(self)


def _needs_network(camera: Http | Snapshot) -> Rules:
    port = urlsplit(camera.url.reveal()).port or PORTS[camera.url.scheme]
    return Rules(read=camera.tls.files, connect=None if camera.allow_redirects == "any" else {port, *PORTS.values()})
