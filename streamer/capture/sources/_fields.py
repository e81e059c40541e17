"""Settings shared by several kinds of source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from streamer.capture.sources._allowed import Allow, Allowed
from streamer.core.landlock import Rules
from streamer.core.picture_limits import MAX_PIXELS
from streamer.core.redact import Url
from streamer.core.settings import Settings
from streamer.types import Pace


def width_and_height(size: str) -> tuple[int, int]:
    """Return the numbers of a validated Size."""
    width, height = size.split("x")
    return int(width), int(height)


def _check_size(size: str) -> str:
    width, height = width_and_height(size)
    if min(width, height) < 16 or width * height > MAX_PIXELS:
        raise ValueError("must be at least 16x16 and at most 7680x4320")
    return size


Size = Annotated[str, Field(pattern=r"^\d{1,5}x\d{1,5}$", examples=["640x480"]), AfterValidator(_check_size)]
"""Width and height in pixels, for example `640x480`."""

Fps = Annotated[float, Field(gt=0, le=1000)]
"""Frames per second."""

HwAccel = Literal["none", "auto", "cuda", "qsv", "vaapi", "drm"]
"""Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""


def hardware_devices(hwaccel: HwAccel) -> list[Path]:
    """Return the devices and files that a hardware decoder uses."""
    if hwaccel == "none":
        return []
    return [Path("/dev/dri"), *Path("/dev").glob("nvidia*")]


StreamIndex = Annotated[int, Field(ge=0, le=9999)]
"""Index of a stream in its container."""

Decode = Literal["auto", "all"]
"""`auto`: key frames only, while no task, motion gate or view needs more. `all`: every frame."""


class NetworkCamera(Settings):
    """Base class of cameras with a URL."""

    pace: ClassVar[Pace] = "live"
    kind: str
    url: Url
    decode: Decode = "auto"
    """`auto`: key frames only, while no task, motion gate or view needs more. `all`: every frame."""
    hwaccel: HwAccel = "none"
    """Hardware decoder: `none` (decode on the CPU), `auto` (the first that works), or a kind of device."""
    stream: StreamIndex | None = None
    """Index of the video stream to read, as `ffprobe` shows it. Default: the largest one."""
    allow: Allow = Field([])
    """Codecs and containers to decode beyond the usual ones, by FFmpeg's names, such as `av1` over RTSP."""

    allowed: ClassVar[Allowed]
    """Codecs and containers that need no `allow`."""
    default_ports: ClassVar[Mapping[str, int]]
    """Port of each scheme."""

    def needs(self) -> Rules:
        """Return what a confined process needs to reach the camera."""
        parts = urlsplit(self.url.reveal())
        ports = {
            parts.port or self.default_ports[parts.scheme],
            *self.default_ports.values(),
        }  # redirects may use those
        return Rules(devices=hardware_devices(self.hwaccel), connect=ports)
